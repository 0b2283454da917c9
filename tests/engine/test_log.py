"""The record of a run, and what becomes of failures to write it."""

import json
import shutil
import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.log import RunLog, percent


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_json_line_an_event(tmp_path):
    with RunLog(tmp_path / "fine") as log:
        log.write("train", epoch=0.5, step=7, values={"loss": 0.25, "mAP": None})
        log.write("validation", epoch=1, step=14, values={"AP": [0.5, None]})
    lines = [json.loads(line) for line in (tmp_path / "fine" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"event": "train", "epoch": 0.5, "step": 7, "loss": 0.25, "mAP": None},
        {"event": "validation", "epoch": 1, "step": 14, "AP": [0.5, None]},
    ]
    with RunLog(tmp_path / "fine", step=14) as log, pytest.raises(ValueError, match="JSON compliant"):
        log.write("train", epoch=1, step=15, values={"loss": float("nan")})
    assert steps(tmp_path / "fine") == [7, 14], "a line that cannot be written leaves no half of it"


def write_steps(folder, *, after, until):
    with RunLog(folder, step=after) as log:
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


@pytest.fixture
def shown(monkeypatch):
    """The failures of threads that would be shown to the user."""
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    return shown


def write_into_a_removed_folder(folder):
    with RunLog(folder) as log:
        shutil.rmtree(folder)
        for step in range(2):
            log.tensorboard.add_scalar("x", 1.0, step)
            log.tensorboard.flush()


def test_the_folder_is_removed(tmp_path, shown):
    """TensorBoard's thread notices it and does not say so, since the run will."""
    with pytest.raises(OSError, match=f"{tmp_path}.*: No such file"):
        write_into_a_removed_folder(tmp_path / "run")
    assert shown == []


def test_what_else_a_thread_fails_at_is_shown(tmp_path, shown):
    with RunLog(tmp_path):
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [failure.exc_type for failure in shown] == [ZeroDivisionError]
