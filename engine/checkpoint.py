"""Checkpoints of a run: written whole or not at all, verified and without executing anything when read.

A checkpoint is a dictionary {"format", "checksum", "stage", "model", "config", "metrics", ...}; `last.pt` also holds
all that continuing needs (optimizer, scheduler, position, random states), and the one before it stays as
`last.previous.pt`, for the case that a disk damages the newest.
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

VERSION = "0.1.0"  # of this code, in every checkpoint; as in pyproject.toml
FORMAT = 1


# --- writing ----------------------------------------------------------------------------------------------------------


def identity(stage: str, config: Config) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it."""
    values = config.to_dict()
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {"stage": stage, "config": values, "config_sha256": digest, "version": VERSION}


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, contents: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write a checkpoint that survives a power cut; the one before it is kept where asked for."""
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


def save_weights(path: Path, state: Mapping[str, Tensor], identity: Mapping[str, Any]) -> None:
    """The weights alone as safetensors, with stage and configuration as JSON in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with _written(path) as temporary:
        save_file(tensors, temporary, {"stage": identity["stage"], "config": json.dumps(identity["config"])})


@contextmanager
def _written(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """`written_whole`, with an error of the system where PyTorch and safetensors report a full disk otherwise."""
    # A worker that dies meanwhile does not cost the file.
    with deferred(SIGCHLD), written_whole(path, durable=durable) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:
            raise OSError(f"could not be written ({str(error).splitlines()[0]}); is the disk full?") from error


def checksum(contents: object) -> str:
    """SHA-256 over tensors and plain values, nested in dictionaries and lists."""
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


def read_newest(path: Path, *, stage: str) -> dict[str, Any]:
    """The checkpoint, or where it is damaged the one before it; says so then."""
    try:
        return read_checkpoint(path, stage=stage)
    except CheckpointError as error:
        try:
            contents = read_checkpoint(previous(path), stage=stage)
            say(f"{error}; continuing from {previous(path).name}")
            return contents
        except CheckpointError:
            raise CheckpointError(error.what, remedy="delete it, or start again with --run.resume never") from None


def read_checkpoint(path: Path, *, stage: str | None = None) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: where it is missing, damaged (if only by a single flipped bit), holds code,
            or is of another stage than the one asked for.
    """
    return _verified(path, read_file(path), stage)


def _verified(path: Path, contents: dict[str, Any], stage: str | None = None) -> dict[str, Any]:
    if contents.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of these scripts")
    stored = contents.pop("checksum", None)
    if stored != checksum({key: value for key, value in contents.items() if key != "format"}):
        raise CheckpointError(f"{path}: damaged (its checksum differs)")
    if stage is not None and contents["stage"] != stage:
        raise CheckpointError(f"{path}: a checkpoint of stage {contents['stage']}, where one of {stage} is needed")
    return contents


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a file that these scripts wrote, or of a published one, which says nothing of itself."""

    path: Path
    tensors: Mapping[str, Tensor]  # by the file's names
    stage: str | None = None  # "fine" or "coarse"; None of a published file, as `config`
    config: Values | None = None  # of the run that trained them

    def of_stream(self, stage: str) -> dict[str, Tensor]:
        """One stream's weights by its own names, where the file is of a network of both; else none."""
        prefix = f"{stage}."
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


def read_weights(path: Path) -> Weights:
    """The weights of a checkpoint or safetensors file of ours, verified, or of a published file."""
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
        raise CheckpointError(f"{path}: damaged, or not weights of these scripts") from error
    return Weights(path=path, tensors=tensors, stage=stage, config=config)
