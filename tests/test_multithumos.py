"""MultiTHUMOS from video files and text files to scores, through the shell, with the project's own configuration."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PROJECT
from tests.datasets.video_files import write_video

CLASSES = ("Run", "Jump", "Throw")
SECONDS = {  # of every video; the longest has many windows
    "video_validation_0000001": 3.0,
    "video_validation_0000002": 4.0,
    "video_test_0000003": 8.0,
    "video_test_0000004": 2.5,
}
ABSENT = "video_validation_0000009"  # annotated, without a file
EXPERIMENT = {  # clips of 8 frames at stride 4
    "data": {"num_classes": 3, "stride": 4, "clip_span": 32, "fine_frames": 12, "min_frames": 20, "workers": 0},
    "model": {"variant": "tiny"},
    "fine": {"init": "none", "batch_size": 2, "epochs": 1, "round_epochs": 1},
    "coarse": {"init": "none", "batch_size": 2, "epochs": 1, "round_epochs": 1},
    "eval": {"window": 12, "save_frames": True},
    "run": {"threads": 1},
}


def write_dataset(folder: Path) -> None:
    """Videos in two folders at 30 frames a second, and intervals: class k over the k-th third of every video."""
    for video, seconds in SECONDS.items():
        place = folder / video.split("_")[1]
        place.mkdir(exist_ok=True)
        write_video(place / f"{video}.mp4", round(30 * seconds), tick=Fraction(1, 30), width=80, height=64)
    official = folder / "multithumos"
    (official / "annotations").mkdir(parents=True)
    (official / "class_list.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(CLASSES, 1)))
    for k, name in enumerate(CLASSES):
        lines = [f"{video} {k / 3 * s:.3f} {(k + 1) / 3 * s:.3f}\n" for video, s in (SECONDS | {ABSENT: 2.0}).items()]
        (official / "annotations" / f"{name}.txt").write_text("".join(lines))
    (folder / "tiny.yaml").write_text(json.dumps(EXPERIMENT))  # JSON is YAML


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """The folder of all that the four commands wrote, and what they said."""
    folder = tmp_path_factory.mktemp("multithumos")
    write_dataset(folder)
    prepare = "-m datasets.prepare multithumos --videos {0}/validation {0}/test --annotations {0}/multithumos"
    stage = "-gpu cpu --config configs/multithumos.yaml --config {0}/tiny.yaml --data.frames {0}/frames"
    stage += " --data.annotations {0}/multithumos.json --data.class_names {0}/multithumos_classes.txt --run.dir {0}/run"
    said = ""
    for command in (
        prepare + " --frames {0}/frames --json {0}/multithumos.json",
        "train_fine.py " + stage,
        "extract_fineFEAT.py " + stage,
        "train_coarse_fineFEAT.py " + stage,
    ):
        arguments = command.format(folder).split()
        done = subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return folder, said


def test_what_the_commands_say(run):
    folder, said = run
    assert "4 videos prepared: 420 frames, matching their timestamps" in said
    assert f"1 annotated videos without frames, skipped: {ABSENT}" in said
    assert "2 training, 2 test videos" in said
    assert "mAP (dense)" in said
    assert (folder / "multithumos_classes.txt").read_text().split() == list(CLASSES)


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Of one class, (F,) both: the mean over positives of the precision at each."""
    ranked = labels[np.argsort(-scores, kind="stable")]
    return float(np.mean(np.cumsum(ranked)[ranked] / (np.flatnonzero(ranked) + 1)))


@pytest.mark.parametrize("stage", ["fine", "coarse"])
def test_every_frame_is_scored_against_the_intervals(run, stage):
    """From the long video, evaluated in windows, as from the short one; labels by hand: class k in the k-th third."""
    folder, said = run
    with np.load(folder / "run" / stage / "predictions" / "dense.npz") as saved:
        videos = [name for name in SECONDS if "test" in name]
        scores = [saved[video] for video in videos]
    thirds = [3 * np.arange(len(rows)) / 24 / SECONDS[video] for video, rows in zip(videos, scores, strict=True)]
    assert [len(rows) for rows in scores] == [24 * SECONDS[video] for video in videos]
    scores, thirds = np.concatenate(scores), np.concatenate(thirds)
    inside = np.abs(thirds - np.rint(thirds)) > 0.01  # at an interval's end its rounding in the text file decides
    ap = [average_precision(scores[inside, k], np.floor(thirds[inside]) == k) for k in range(len(CLASSES))]
    metrics = json.loads((folder / "run" / stage / "metrics.json").read_text())
    assert metrics["mAP_frames"] == pytest.approx(np.mean(ap), abs=0.01)
    assert f"best is by {100 * metrics['mAP_frames']:.2f}%" in said
