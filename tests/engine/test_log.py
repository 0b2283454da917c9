"""The record of a run, and what becomes of failures to write it."""

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.log import RunLog, percent


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_json_line_an_event(tmp_path):
    log = RunLog(tmp_path / "fine")
    log.write("train", epoch=0.5, step=7, values={"loss": 0.25, "mAP": None})
    log.write("validation", epoch=1, step=14, values={"AP": [0.5, None]})
    lines = [json.loads(line) for line in (tmp_path / "fine" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"event": "train", "epoch": 0.5, "step": 7, "loss": 0.25, "mAP": None},
        {"event": "validation", "epoch": 1, "step": 14, "AP": [0.5, None]},
    ]
    log = RunLog(tmp_path / "fine", step=14)
    with pytest.raises(ValueError, match="JSON compliant"):
        log.write("train", epoch=1, step=15, values={"loss": float("nan")})
    assert steps(tmp_path / "fine") == [7, 14], "a line that cannot be written leaves no half of it"


def write_steps(folder, *, after, until):
    log = RunLog(folder, step=after)
    for step in range(after + 1, until + 1):
        log.write("train", epoch=0, step=step, values={"loss": float(step + 100 * after)})


def test_continuing_drops_what_was_beyond(tmp_path):
    write_steps(tmp_path, after=0, until=5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 1')  # cut off by a crash
    write_steps(tmp_path, after=3, until=6)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    curve = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1), (2, 2), (3, 3), (4, 304), (5, 305), (6, 306)]
    write_steps(tmp_path, after=0, until=1)
    assert steps(tmp_path) == [1], "a new run in the same folder keeps nothing of the old"


def test_percent():
    assert (percent(0.251), percent(None)) == ("25.10%", "undefined")


@pytest.mark.parametrize("lost", ["", "tensorboard"])
def test_the_folder_is_removed(tmp_path, lost):
    """Nothing is lost in silence, and the error names the file."""
    log = RunLog(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / lost)
    with pytest.raises(OSError, match=f"{tmp_path}.*: No such file"):
        log.write("train", epoch=0, step=1, values={"loss": 1.0})
