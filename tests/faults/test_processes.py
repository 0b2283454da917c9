"""Two processes equal one: the same training to 1e-5, the same evaluation and features to the last bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.checkpoint import read_checkpoint

PROJECT = Path(__file__).resolve().parents[2]
FIVE_STEPS = ["--fine.max_steps", 5, "--coarse.max_steps", 5, "--fine.batch_size", 4, "--coarse.batch_size", 4]
FIVE_STEPS += ["--fine.epochs", 9, "--coarse.epochs", 9, "--coarse.drop_last", "true", "--model.dropout", 0]


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "train"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def both(finish, tmp_path):
    """both(script, ...): the folders of the run in one process and in two."""

    def run(script: str, *options: object, alone: tuple = (), together: tuple = ()) -> tuple[Path, Path]:
        finish(script, *options, *alone, folder=tmp_path / "one")
        finish(script, *options, *together, folder=tmp_path / "two", processes=2)
        return tmp_path / "one", tmp_path / "two"

    return run


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("train_fine", []),
        pytest.param("train_fine", ["--fine.clip_grad", 0.1], marks=pytest.mark.faults),
        ("train_coarse_fineFEAT", []),
    ],
)
def test_two_processes_equal_one(both, tiny_run, script, options):
    """Losses, weights, running statistics and momentum; clips of several lengths, which are padded alike."""
    name = "fine" if script == "train_fine" else "coarse"
    options = [*FIVE_STEPS, "--features.dir", tiny_run / "features", *options]
    one, two = both(script, *options, alone=("--model.bn_splits", 2))
    ours, theirs = log(two / name), log(one / name)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for key in ("loss", "cls_loss", "loc_loss"):
            assert a[key] == pytest.approx(b[key], abs=1e-5)
    ours, theirs = (read_checkpoint(run / name / "checkpoints" / "last.pt") for run in (two, one))
    assert ours["position"]["step"] == 5
    assert ours["model"].keys() == theirs["model"].keys()
    for key, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][key], value, rtol=1e-5, atol=1e-5)
    for key, state in theirs["optimizer"]["state"].items():
        momentum = ours["optimizer"]["state"][key]["momentum_buffer"]
        torch.testing.assert_close(momentum, state["momentum_buffer"], rtol=1e-3, atol=1e-4)


def test_accumulated_equals_undivided(finish, tmp_path):
    """Two parts are two groups of the undivided batch; running statistics see the parts one after the other."""
    folders = tmp_path / "parts", tmp_path / "groups"
    for folder, options in zip(folders, (["--fine.accumulate", 2], ["--model.bn_splits", 2]), strict=True):
        finish("train_fine", *FIVE_STEPS, *options, folder=folder)
    ours, theirs = (read_checkpoint(folder / "fine" / "checkpoints" / "last.pt")["model"] for folder in folders)
    for key, value in theirs.items():
        if not key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(log(folder / "fine") for folder in folders), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.faults)])
def test_another_number_of_processes_continues(finish, tmp_path, before, after):
    finish("train_fine", "--fine.max_steps", 2, processes=before)
    assert "continuing at epoch 0, step 2" in finish("train_fine", processes=after)
    last = read_checkpoint(tmp_path / "fine" / "checkpoints" / "last.pt")
    assert last["position"]["step"] == 6
    norms = [name for name in last["model"] if name.endswith("running_mean")]
    assert norms
    for name in norms:
        assert last["model"][name].numel() == after * last["model"][name.replace("running_mean", "weight")].numel()


def test_a_batch_that_processes_cannot_share(stopped):
    line = stopped(1, "train_fine", "--fine.batch_size", 3, processes=2)
    assert line.endswith("--fine.batch_size: 3 cannot be divided among 2 processes; nearest valid: 2 or 4")


# --- evaluation and extraction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "name"), [("train_fine", "fine"), ("train_coarse_fineFEAT", "coarse")])
def test_evaluation_is_the_same_to_the_last_bit(both, tiny_run, script, name):
    init = tiny_run / name / "checkpoints" / "best.pt"
    one, two = both(script, "--eval_only", "true", f"--{name}.init", init, "--features.dir", tiny_run / "features")
    assert "metrics.json" in files(two / name)
    assert files(two / name) == files(one / name)


def test_extraction_is_the_same_to_the_last_bit(both, tiny_run):
    one, two = both("extract_fineFEAT", "--features.checkpoint", tiny_run / "fine" / "checkpoints" / "best.pt")
    ours, theirs = files(two / "features"), files(one / "features")
    manifests = [json.loads(found.pop("manifest.json")) for found in (ours, theirs)]
    assert ours == theirs
    assert manifests[0] == manifests[1]
    assert len(ours) == 11


@pytest.mark.faults
def test_extraction_continues_what_others_have_done(finish, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "features", tmp_path / "features")
    for video in ("tr1", "te0", "te3"):
        (tmp_path / "features" / f"{video}.safetensors").unlink()
    options = "--features.checkpoint", tiny_run / "fine" / "checkpoints" / "best.pt"
    assert "8 videos already extracted, 3 to extract" in finish("extract_fineFEAT", *options, processes=2)
    assert files(tmp_path / "features").keys() == files(tiny_run / "features").keys()


# --- through the shell ------------------------------------------------------------------------------------------------


def shell(*command: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True, env=environment, timeout=300
    )


def test_our_launcher(tiny_dataset, tmp_path):
    """One voice, nothing on stderr; a mistake is one line and the script's own status."""
    options = "-gpu", "cpu", "--run.processes", 2, "--config", tiny_dataset / "tiny.yaml", "--run.dir", tmp_path
    done = shell("train_fine.py", *options, "--fine.max_steps", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("validation after epoch") == 1
    done = shell("train_fine.py", *options, "--data.frames", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("train_fine.py: error: nowhere: no such folder")
    assert done.stderr.count("\n") == 1


@pytest.mark.faults
def test_torchrun(tiny_dataset, tmp_path):
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2
    options = "-gpu", "cpu", "--config", tiny_dataset / "tiny.yaml", "--run.dir", tmp_path
    done = shell(*torchrun, "train_fine.py", *options, "--fine.max_steps", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation after epoch") == 1
    done = shell(*torchrun, "extract_fineFEAT.py", *options)
    assert done.stdout.count("features of 11 videos") == 1
