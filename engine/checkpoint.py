"""Checkpoints of a run: written whole or not at all, verified and without executing anything when read.

A checkpoint is a dictionary {"format", "checksum", "stage", "model", "config", "metrics", ...}; `last.pt` also holds
all that continuing needs (optimizer, scheduler, position, random states), and the one before it stays as
`last.previous.pt`, for the case that a disk damages the newest.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.errors import InputError

FORMAT = 1


class CheckpointError(InputError):
    """A checkpoint that cannot be read or does not belong to this run; the message names file and remedy."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, contents: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write under a temporary name in the same folder, flush to disk, then rename."""
    contents = {"format": FORMAT, **contents, "checksum": checksum(contents)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.is_file():
            _keep(path, previous(path))
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:  # writing does not name the file
        raise OSError(f"{path}: {error.strerror or error}") from error
    except RuntimeError as error:  # how PyTorch may report a full disk
        raise OSError(f"{path}: could not be written ({str(error).splitlines()[0]}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(path: Path, state: Mapping[str, torch.Tensor], identity: Mapping[str, Any]) -> None:
    """The weights alone as safetensors, whole or not at all, with stage and configuration as JSON in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"stage": identity["stage"], "config": json.dumps(identity["config"])}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: could not be written ({error}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name, which it keeps when the first is taken over."""
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, name)


def read_weights(path: Path) -> dict[str, Any]:
    """What `save_weights` wrote: {"stage", "config", "model"}."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stage, config = metadata["stage"], json.loads(metadata["config"])
        if not (isinstance(config, dict) and all(isinstance(options, dict) for options in config.values())):
            raise ValueError("config")
        return {"stage": stage, "config": config, "model": tensors}
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or not weights of these scripts") from error


def _flush_folder(folder: Path) -> None:
    """Make a renaming survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(contents: object) -> str:
    """SHA-256 over tensors and plain values, nested in dictionaries and lists."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                digest.update(repr(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            digest.update(b"[%d" % len(value))
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(contents)
    return digest.hexdigest()


def read_newest(path: Path, *, stage: str) -> tuple[dict[str, Any], str | None]:
    """The checkpoint, or where it is damaged the one before it, and then a line that says so."""
    try:
        return read_checkpoint(path, stage=stage), None
    except CheckpointError as error:
        try:
            return read_checkpoint(previous(path), stage=stage), f"{error}; continuing from {previous(path).name}"
        except CheckpointError:
            raise error from None


def read_checkpoint(path: Path, *, stage: str | None = None) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: where it is missing, damaged (if only by a single flipped bit), holds code,
            or is of another stage than the one asked for.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused: it holds more than tensors and plain values") from error
    except OSError:
        raise
    except Exception as error:  # a damaged file may trip torch's reader anywhere, over errors of any kind
        raise CheckpointError(f"{path}: damaged; delete it, or start again with --run.resume never") from error
    return verified(path, contents, stage=stage)


def verified(path: Path, contents: object, *, stage: str | None = None) -> dict[str, Any]:
    """What torch.load has found in `path`, if it is whole, ours, and of the stage asked for (see `read_checkpoint`)."""
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of these scripts")
    stored = contents.pop("checksum", None)
    if stored != checksum({key: value for key, value in contents.items() if key != "format"}):
        raise CheckpointError(f"{path}: damaged (its checksum differs); delete it, or use --run.resume never")
    if stage is not None and contents["stage"] != stage:
        raise CheckpointError(f"{path}: a checkpoint of stage {contents['stage']}, where one of {stage} is needed")
    return contents


def random_state() -> dict[str, Any]:
    """The states of PyTorch's generators in this process; of several GPUs, the present one's."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def set_random_state(state: Mapping[str, Any]) -> None:
    """The reverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
