"""Checkpoints of a run. They are written atomically, and verified when read, without executing any code.

A checkpoint is a dictionary {"format", "checksum", "stage", "model", "config", "metrics", ...}. `last.pt` also contains
the state needed to resume (optimizer, scheduler, position, random states). The checkpoint before it is kept as
`last.previous.pt`, in case the newest one gets damaged.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCHLD
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.files import written_whole
from common.progress import say
from common.signals import deferred
from configs.schema import Config, Values
from models import CheckpointError
from models.official import read_checkpoint as read_file
from models.official import tensors_of

VERSION = "0.1.0"  # stored in every checkpoint; same as in pyproject.toml
Contents = dict[str, Any]  # of a checkpoint: torch.load has no type for what a file contains
FORMAT = 1


# --- writing ----------------------------------------------------------------------------------------------------------


def identity(stage: str, config: Config) -> Contents:
    """The entries of a checkpoint that identify its run."""
    values = config.to_dict()
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {"stage": stage, "config": values, "config_sha256": digest, "version": VERSION}


def previous(path: Path) -> Path:
    """The path of the checkpoint before the newest one."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, contents: Contents, *, keep_previous: bool = False) -> None:
    """Write a checkpoint that survives a power cut; with `keep_previous`, keep the one before it."""
    contents = {"format": FORMAT, **contents, "checksum": checksum(contents)}
    with _written(path, durable=True) as temporary:
        with temporary.open("wb") as file:
            torch.save(contents, file)
        if keep_previous and path.is_file():
            previous(path).unlink(missing_ok=True)
            try:
                previous(path).hardlink_to(path)
            except OSError:  # a file system without links
                shutil.copyfile(path, previous(path))


def save_weights(path: Path, state: Mapping[str, Tensor], identity: Contents) -> None:
    """Write only the weights, as safetensors, with stage and configuration as JSON in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with _written(path) as temporary:
        save_file(tensors, temporary, {"stage": identity["stage"], "config": json.dumps(identity["config"])})


@contextmanager
def _written(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """`written_whole`, but raises OSError if PyTorch or safetensors fail, for example because the disk is full."""
    # A worker that dies meanwhile must not interrupt the writing.
    with deferred(SIGCHLD), written_whole(path, durable=durable) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:
            raise OSError(f"could not be written ({str(error).splitlines()[0]}); is the disk full?") from error


def checksum(contents: object) -> str:
    """SHA-256 of tensors and plain values, nested in dictionaries and lists."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
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


# --- reading ----------------------------------------------------------------------------------------------------------


def read_newest(path: Path, *, stage: str) -> Contents:
    """Read the checkpoint or, if it is damaged, the one before it, with a message."""
    try:
        return read_checkpoint(path, stage=stage)
    except CheckpointError as error:
        try:
            contents = read_checkpoint(previous(path), stage=stage)
            say(f"{error}; continuing from {previous(path).name}")
            return contents
        except CheckpointError:
            raise CheckpointError(error.what, remedy="delete it, or start again with --run.resume never") from None


def read_checkpoint(path: Path, *, stage: str | None = None) -> Contents:
    """Read a checkpoint written by `save_checkpoint` to the CPU.

    Raises:
        CheckpointError: if it is missing or damaged (even by a single flipped bit), contains code,
            or belongs to a stage other than `stage`.
    """
    return _verified(path, read_file(path), stage)


def _verified(path: Path, contents: Contents, stage: str | None = None) -> Contents:
    if contents.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint written by these scripts")
    stored = contents.pop("checksum", None)
    if stored != checksum({key: value for key, value in contents.items() if key != "format"}):
        raise CheckpointError(f"{path}: damaged (checksum mismatch)")
    if stage is not None and contents["stage"] != stage:
        raise CheckpointError(f"{path}: a checkpoint of stage {contents['stage']}, but stage {stage} is required")
    return contents


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights from a file written by these scripts, or from a published file, which has no stage or config."""

    path: Path
    tensors: Mapping[str, Tensor]  # under the names in the file
    stage: str | None = None  # "fine" or "coarse"; None for a published file
    config: Values | None = None  # of the training run; None for a published file

    def of_stream(self, stage: str) -> dict[str, Tensor]:
        """The weights of one stream under its own names, if the file contains a joint network; otherwise empty."""
        prefix = f"{stage}."
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


def read_weights(path: Path) -> Weights:
    """Read the weights from our own checkpoint (verified) or safetensors file, or from a published file."""
    if path.suffix != ".safetensors":
        contents = read_file(path)
        if contents.get("format") != FORMAT:
            return Weights(path=path, tensors=tensors_of(contents, path))
        contents = _verified(path, contents)
        return Weights(path=path, tensors=contents["model"], stage=contents["stage"], config=contents["config"])
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stage, config = metadata["stage"], TypeAdapter(Values).validate_json(metadata["config"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, or not written by these scripts") from error
    return Weights(path=path, tensors=tensors, stage=stage, config=config)
