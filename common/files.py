"""Files that are seen whole or not at all, and places that can be written to."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

from common.errors import InputError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file to errors of the system: a full disk does not name it, others name the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from error


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when all is written; makes the folder where it is missing.

    Args:
        durable: The file survives a power cut: its data is on disk before it gets its name, and the name after.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{gethostname()}.{os.getpid()}.tmp")  # of this process, on any machine
    with naming(path):
        try:
            yield temporary
            if durable:
                _flush(temporary)
            temporary.replace(path)
            if durable:
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file's data, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """A JSON file, whole or not at all; undefined numbers are null, never NaN."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def writable(folder: Path, option: str) -> Path:
    """The folder, made where it is missing: one that cannot be written to is found before the work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = "not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(
            f"{folder}: cannot be written to ({reason})", option=option, remedy="choose another {option}"
        ) from None
