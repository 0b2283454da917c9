"""Checkpoints are whole or absent, never run code, and say what is wrong in one line."""

import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoint import (
    previous,
    read_checkpoint,
    read_newest,
    read_weights,
    save_checkpoint,
)
from models import CheckpointError

CONTENTS = {"stage": "fine", "model": {"weight": torch.arange(3.0)}, "config": {"run": {"seed": 0}}}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / "last.pt"


def test_round_trip(path):
    save_checkpoint(path, CONTENTS)
    contents = read_checkpoint(path, stage="fine")
    assert contents["config"] == CONTENTS["config"]
    assert torch.equal(contents["model"]["weight"], CONTENTS["model"]["weight"])
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_failed_writing_leaves_the_old_file(path, monkeypatch):
    save_checkpoint(path, CONTENTS)
    before = path.read_bytes()

    def fills_the_disk(contents, file):
        file.write(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nmore")

    monkeypatch.setattr(torch, "save", fills_the_disk)
    with pytest.raises(OSError, match=r"last\.pt: could not be written \(PytorchStreamWriter .*failed\); is the disk"):
        save_checkpoint(path, CONTENTS)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"], "no temporary file stays"


def test_unfinished_writing_leaves_nothing_under_the_name(path):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"stage": lambda: None})
    assert list(path.parent.iterdir()) == []


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_is_refused_and_not_run(path, tmp_path):
    torch.save({"format": 1, "stage": "fine", "model": Malicious(tmp_path / "marker")}, path)
    with pytest.raises(CheckpointError, match=r"last\.pt: not loaded: it contains more"):
        read_checkpoint(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint"])
def test_damaged(path, damage):
    save_checkpoint(path, CONTENTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.pt: (not a readable checkpoint|not loaded: it contains more)"):
        read_checkpoint(path)


def test_not_one_of_ours(path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(path)
    for contents, says in (([1, 2], "found a list"), ({"model_state_dict": {}}, "not a checkpoint written by these")):
        torch.save(contents, path)
        with pytest.raises(CheckpointError, match=says):
            read_checkpoint(path)


def test_wrong_stage(path):
    save_checkpoint(path, CONTENTS)
    with pytest.raises(CheckpointError, match="stage fine, but stage coarse is required"):
        read_checkpoint(path, stage="coarse")


def flipped(contents: bytes, place: float) -> bytes:
    """One bit of them inverted, at this fraction of their length."""
    where = int(place * (len(contents) - 1))
    return contents[:where] + bytes([contents[where] ^ 1]) + contents[where + 1 :]


def test_the_previous_one_is_kept_and_used(path, capsys):
    for step in range(3):
        save_checkpoint(path, CONTENTS | {"step": step}, keep_previous=True)
    assert [read_checkpoint(file)["step"] for file in (previous(path), path)] == [1, 2]
    assert read_newest(path, stage="fine")["step"] == 2
    assert capsys.readouterr().out == ""
    path.write_bytes(path.read_bytes()[:-100])
    assert read_newest(path, stage="fine")["step"] == 1
    said = capsys.readouterr().out
    assert "last.pt: not a readable checkpoint" in said
    assert said.endswith("continuing from last.previous.pt\n")
    previous(path).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt: .*delete it, or start again with --run\.resume never"):
        read_newest(path, stage="fine")


def test_flipped_bits_never_pass_unnoticed(path):
    """Wherever the bit is, the contents are as written or refused; in the tensors, always refused."""
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    save_checkpoint(path, CONTENTS | {"model": {"weight": weights}})
    whole = path.read_bytes()
    for place in torch.linspace(0, 1, 97).tolist():
        path.write_bytes(flipped(whole, place))
        with suppress(CheckpointError):
            assert torch.equal(read_checkpoint(path)["model"]["weight"], weights)
    start = whole.index(weights.numpy().tobytes())
    for offset in (0, 7777, 15999):
        path.write_bytes(flipped(whole, (start + offset + 0.5) / (len(whole) - 1)))
        with pytest.raises(CheckpointError, match=r"damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize("config", ["[]", "{", '{"data": 3}'])
def test_weights_of_another_configuration_are_damaged(tmp_path, config):
    path = tmp_path / "best.safetensors"
    save_file({"weight": torch.zeros(2)}, path, {"stage": "fine", "config": config})
    with pytest.raises(CheckpointError, match=r"best\.safetensors: damaged, or not written by these scripts"):
        read_weights(path)
