"""Files that are seen whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

from common.errors import InputError


def temporary_path(path: Path) -> Path:
    """Where a file is written before it gets its name; another for each process, on any machine."""
    return path.with_name(f".{path.name}.{gethostname()}.{os.getpid()}.tmp")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file to errors of the system: a full disk does not name it, others name the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when all is written; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with naming(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable(folder: Path, option: str) -> Path:
    """The folder of results, made where it is missing: an unwritable one is found before the work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another {option}") from None
