"""Atomic file writing and checks for writable folders."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

from common.errors import InputError

JsonObject = dict[str, Any]  # of any JSON values, for which Python has no type


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file name to an OSError: a full disk does not name it, other errors name the temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from error


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` on success. The folder is created if necessary.

    Args:
        durable: Survive a power cut: flush the data to disk before the renaming, and the folder after it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f".{path.name}.{gethostname()}.{os.getpid()}.tmp"
    )  # unique to this process on any machine
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
    """Flush a file's data, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a JSON file atomically. NaN is an error; use None (null) for undefined numbers."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def writable(folder: Path, option: str) -> Path:
    """Create the folder if necessary, check that it is writable before work starts, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = "not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(
            f"{folder}: not writable ({reason})", option=option, remedy="choose another {option}"
        ) from None
