"""SIGTERM and SIGINT: the step is finished, the state saved, the status 128 + signal, and the run continues equal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.checkpoint import read_checkpoint

PROJECT = Path(__file__).resolve().parents[2]
LINE = "train_fine.py: stopped by {}; run the same command to resume"


def same(a, b) -> bool:
    """Whether two checkpoints' contents are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else a == b


def assert_same_result(folder: Path, expected: Path) -> None:
    """All of last.pt but the configuration, which names the folder; and the metrics and predictions."""
    ours, theirs = (read_checkpoint(run / "fine" / "checkpoints" / "last.pt") for run in (folder, expected))
    for key in ("model", "optimizer", "scheduler", "position", "rng"):
        assert same(ours[key], theirs[key]), key
    for file in ("metrics.json", "predictions/official.txt"):
        assert (folder / "fine" / file).read_bytes() == (expected / "fine" / file).read_bytes()


MOMENTS = [("step", 1), ("step", 2), ("step", 4), ("epoch's end", 2), ("validation", 2), ("save", 3)]


@pytest.mark.parametrize(
    ("at", "number", "name"),
    [
        ("step", 2, "SIGINT"),
        ("validation", 2, "SIGTERM"),
        *(pytest.param(at, number, "SIGTERM", marks=pytest.mark.faults) for at, number in MOMENTS),
    ],
)
def test_stopped_and_continued_equals_uninterrupted(stopped, finish, tiny_run, tmp_path, at, number, name):
    fault = {"signal": name, "at": at, "number": number}
    assert stopped(128 + signal.Signals[name], "train_fine", fault=fault) == LINE.format(name)
    assert "continuing at epoch" in finish("train_fine")
    assert_same_result(tmp_path, tiny_run)


def test_killed_before_the_first_step(start, finish, tiny_run, tmp_path):
    assert start("train_fine", fault={"signal": "SIGKILL", "at": "step", "number": 1}).wait() == [-signal.SIGKILL]
    assert "continuing at epoch 0, step 0" in finish("train_fine")
    assert_same_result(tmp_path, tiny_run)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_extraction_stops_at_once_and_continues(stopped, finish, tiny_run, tmp_path, name):
    options = "--features.checkpoint", tiny_run / "fine" / "checkpoints" / "best.pt"
    fault = {"signal": name, "at": "extraction", "number": 5}
    line = stopped(128 + signal.Signals[name], "extract_fineFEAT", *options, fault=fault)
    assert line == f"extract_fineFEAT.py: stopped by {name}; run the same command to resume"
    assert len(list((tmp_path / "features").iterdir())) == 5  # four videos and the manifest: nothing half written
    assert "4 videos already extracted, 7 to extract" in finish("extract_fineFEAT", *options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group(start, number):
    """As Ctrl-C and `scancel` send it: the loader's workers live on until the main process has saved."""
    run = start("train_fine", "--data.workers", 2, "--fine.epochs", 200)
    run.see("validation after epoch 1,")
    run.send(number, group=True)
    assert run.wait() == [128 + number]
    assert run.text().splitlines()[-1] == LINE.format(signal.Signals(number).name)


def test_a_worker_that_dies_of_the_same_request(stopped, finish, tiny_run, tmp_path):
    fault = {"signal": "SIGKILL", "at": "step", "number": 2, "child": "after SIGTERM"}
    assert stopped(143, "train_fine", "--data.workers", 2, fault=fault) == LINE.format("SIGTERM")
    finish("train_fine")
    assert_same_result(tmp_path, tiny_run)


def test_a_second_signal_leaves_at_once(start, tmp_path):
    """While the first waits for a step that never ends."""
    run = start("train_fine", "--data.workers", 1, "--fine.epochs", 200)
    run.see("validation after epoch 1,")
    workers = [int(pid) for pid in Path(f"/proc/{run.pids[0]}/task/{run.pids[0]}/children").read_text().split()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    time.sleep(1)
    run.send(signal.SIGTERM)
    time.sleep(1.5)
    run.send(signal.SIGTERM)
    try:
        assert run.wait() == [-signal.SIGTERM]
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    assert read_checkpoint(tmp_path / "fine" / "checkpoints" / "last.pt")["position"]["step"] >= 3


@pytest.mark.parametrize("at", ["step", pytest.param("validation", marks=pytest.mark.faults)])
def test_a_signal_to_one_of_two_processes(stopped, finish, tmp_path, at):
    """Both stop, without a hang, and continue as if they had not."""
    fault = {"signal": "SIGTERM", "at": at, "number": 2}
    assert stopped(143, "train_fine", processes=2, fault=fault, fault_in=1) == LINE.format("SIGTERM")
    assert "continuing" in finish("train_fine", processes=2)
    finish("train_fine", processes=2, folder=tmp_path / "uninterrupted")
    assert_same_result(tmp_path, tmp_path / "uninterrupted")


@pytest.fixture
def launched(tiny_dataset, tmp_path):
    """`--run.processes 2` through the shell, under way."""
    command = [
        *(sys.executable, "train_fine.py", "-gpu", "cpu", "--run.processes", "2", "--fine.epochs", "500"),
        *("--config", str(tiny_dataset / "tiny.yaml"), "--run.dir", str(tmp_path)),
    ]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    ) as launcher:  # fmt: skip
        while not launcher.stdout.readline().startswith("validation after epoch 1,"):
            assert launcher.poll() is None, launcher.stderr.read()
        yield launcher
        launcher.kill()


def test_a_signal_to_the_launcher(launched, tmp_path):
    """One line, the status, and no process that stays."""
    launched.send_signal(signal.SIGTERM)
    _, said = launched.communicate(timeout=60)
    assert (launched.returncode, said.splitlines()) == (143, [LINE.format("SIGTERM")])
    assert read_checkpoint(tmp_path / "fine" / "checkpoints" / "last.pt")["position"]["step"] >= 3


@pytest.mark.faults
def test_a_launched_process_is_killed(launched):
    """The launcher says so, since nobody else can, and ends the other one."""
    *_, second = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    os.kill(int(second), signal.SIGKILL)
    _, said = launched.communicate(timeout=60)
    assert launched.returncode == 137
    assert said.splitlines() == [
        "train_fine.py: error: process 1 was terminated by SIGKILL; run the same command to resume"
    ]
