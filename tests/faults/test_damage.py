"""Killed while writing, damaged files, full disks, unreadable frames: a checkpoint remains, and one line says why."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from engine.checkpoint import previous, read_checkpoint, read_newest

FULL = pytest.mark.faults
KILL = -signal.SIGKILL
SAVING_SECONDS = 0.05  # about what writing a checkpoint takes here


@pytest.fixture
def expected(tiny_run) -> dict:
    return read_checkpoint(tiny_run / "fine" / "checkpoints" / "last.pt")


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=FULL) for seed in range(3, 20))])
def test_killed_while_writing_a_checkpoint(start, finish, expected, tmp_path, seed):
    """At a random moment of a random one of the first seven."""
    fault = {"signal": "SIGKILL", "at": "save", "number": 1 + seed % 7, "after": SAVING_SECONDS, "seed": seed}
    start("train_fine", fault=fault).wait()
    last = tmp_path / "fine" / "checkpoints" / "last.pt"
    if fault["number"] > 1:
        read_newest(last, stage="fine")
        read_checkpoint(last)  # nothing damages a file in place
    said = finish("train_fine")
    assert "continuing from last.previous.pt" not in said
    after = read_checkpoint(last)
    assert after["position"] == expected["position"]
    assert equal(after["model"], expected["model"])


def test_killed_while_extracting(start, finish, tiny_run, tmp_path):
    options = "--features.checkpoint", tiny_run / "fine" / "checkpoints" / "best.pt"
    fault = {"signal": "SIGKILL", "at": "extraction", "number": 5}
    assert start("extract_fineFEAT", *options, fault=fault).wait() == [KILL]
    assert "features of 11 videos" in finish("extract_fineFEAT", *options)
    for path in (tiny_run / "features").glob("*.safetensors"):
        assert (tmp_path / "features" / path.name).read_bytes() == path.read_bytes()


@FULL
def test_one_of_two_processes_is_killed(start, finish, tmp_path):
    """The other one ends too, with one line; and they continue."""
    run = start("train_fine", processes=2, fault={"signal": "SIGKILL", "at": "step", "number": 4}, fault_in=1)
    assert run.wait() == [1, KILL]
    lines = [line for line in run.text().splitlines() if line.startswith("train_fine.py: error")]
    assert lines == ["train_fine.py: error: another process has ended; run the same command to resume"]
    assert "Traceback" not in run.text()
    assert "continuing" in finish("train_fine", processes=2)


def test_a_worker_that_dies(stopped, finish):
    fault = {"signal": "SIGKILL", "at": "step", "number": 2, "child": True}
    line = stopped(1, "train_fine", "--data.workers", 1, "--fine.epochs", 99, fault=fault)
    assert line.startswith("train_fine.py: error: DataLoader worker")
    assert line.endswith("; run the same command to resume")


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", *(pytest.param(d, marks=FULL) for d in ("truncated", "missing"))])
def test_a_damaged_checkpoint(finish, expected, tmp_path, damage):
    """It is reported, the one before it used, and the result the same."""
    finish("train_fine", "--fine.max_steps", 4)
    last = tmp_path / "fine" / "checkpoints" / "last.pt"
    contents = bytearray(last.read_bytes())
    match damage:
        case "truncated":
            last.write_bytes(contents[: len(contents) // 2])
        case "flipped":
            contents[len(contents) // 2] ^= 1
            last.write_bytes(contents)
        case "missing":
            last.unlink()
    said = finish("train_fine")
    assert f"{last}: " in said
    assert "continuing from last.previous.pt" in said
    assert equal(read_checkpoint(last)["model"], expected["model"])
    assert previous(last).is_file()


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoints/last.pt", "metrics.jsonl"])
def test_a_full_disk(finish, stopped, expected, tmp_path, name):
    """A limit on the size of files stands for it: what is longer fails as there. Afterwards the run continues."""
    finish("train_fine", "--fine.max_steps", 2)
    last, record = tmp_path / "fine" / "checkpoints" / "last.pt", tmp_path / "fine" / "metrics.jsonl"
    before = last.read_bytes()
    limit = len(before) // 2 if name == "checkpoints/last.pt" else 2 * len(before)
    if name == "metrics.jsonl":  # as long as the limit, where all else is shorter
        padding = limit - record.stat().st_size - 30
        record.write_text(json.dumps({"step": 0, "padding": "x" * padding}) + "\n" + record.read_text())
    line = stopped(1, "train_fine", fault={"at": "limit", "bytes": limit})
    assert line.startswith(f"train_fine.py: error: {tmp_path}/fine/{name}: ")
    assert line.endswith(("File too large", "is the disk full?"))
    assert last.read_bytes() == before
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".partial")]
    finish("train_fine")
    assert equal(read_checkpoint(last)["model"], expected["model"])


def test_the_folder_is_removed(start, tmp_path):
    run = start("train_fine", "--fine.epochs", 500)
    run.see("validation after epoch 2,")
    shutil.rmtree(tmp_path / "fine", ignore_errors=True)
    assert run.wait() == [1]
    lines = [line for line in run.text().splitlines() if line.startswith("train_fine.py: error: ")]
    assert len(lines) == 1, run.text()
    assert str(tmp_path / "fine") in lines[0]
    assert "Traceback" not in run.text()


def test_a_folder_that_cannot_be_written(stopped, tmp_path):
    """A file stands in its place, which holds for root too."""
    (tmp_path / "fine").write_text("not a folder")
    line = stopped(1, "train_fine")
    assert str(tmp_path / "fine") in line
    assert "choose another --run.dir" in line


# --- bad samples ------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged_frames(tiny_dataset, tmp_path):
    """damaged_frames(video, ...): a copy of the frames, of which these videos lack some (te) or have truncated ones."""

    def damage(*videos: str) -> Path:
        frames = tmp_path / "frames"
        shutil.copytree(tiny_dataset / "frames", frames)
        for video in videos:
            for path in sorted((frames / video).iterdir())[:-9]:
                if video.startswith("te"):
                    path.unlink()
                else:
                    path.write_bytes(path.read_bytes()[:400])
        return frames

    return damage


def test_bad_samples_are_skipped_alike(finish, damaged_frames, tmp_path):
    """For any number of workers: another clip in training, one video less in the test, both named."""
    options = "--data.on_bad_sample", "skip", "--data.frames", damaged_frames("tr2", "te1")
    folders = [tmp_path / f"workers{n}" for n in (0, 2)]
    for workers, folder in zip((0, 2), folders, strict=True):
        said = finish("train_fine", *options, "--data.workers", workers, folder=folder)
        for video, of in (("tr2", 7), ("te1", 4)):
            assert said.count(f"skipped (1 of {of} videos so far)") == 1
            assert f"{video}-0000" in said
    ours, theirs = (read_checkpoint(folder / "fine" / "checkpoints" / "last.pt") for folder in folders)
    assert equal(ours["model"], theirs["model"])
    metrics = [json.loads((folder / "fine" / "metrics.json").read_text()) for folder in folders]
    assert metrics[0] == metrics[1]
    assert metrics[0]["videos_without_prediction"] == 1


def test_too_many_bad_samples(stopped, damaged_frames):
    frames = damaged_frames("tr2", "tr4")
    line = stopped(1, "train_fine", "--data.on_bad_sample", "skip", "--data.frames", frames)
    assert "more than 1 of 7 videos are unreadable" in line
    assert "tr2" in line
    assert "tr4" in line


def test_a_bad_sample_is_an_error_by_default(stopped, damaged_frames):
    line = stopped(1, "train_fine", "--data.frames", damaged_frames("tr2"))
    assert "tr2-0000" in line
    assert "unreadable frame" in line


@FULL
def test_bad_samples_through_all_stages(finish, damaged_frames, tiny_run, tmp_path):
    """Stage 3 goes without what stage 2 has skipped."""
    options = "--data.on_bad_sample", "skip", "--data.frames", damaged_frames("te1")
    shutil.copytree(tiny_run / "fine", tmp_path / "fine")
    assert "features of 10 videos" in finish("extract_fineFEAT", *options)
    said = finish("train_coarse_fineFEAT", *options, "--coarse.max_steps", 1)
    assert "no features for video te1; skipping it" in said
