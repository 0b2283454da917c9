"""tools.demo_summary: table, verdicts and figure from the files written by the stages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.cli import load as load_config
from datasets.clips import find_videos, frame_labels
from datasets.demo import __main__ as demo
from datasets.demo.scene import CLASSES, CONTEXT_CLASSES
from datasets.kinds import CHARADES
from eval.charades_localize import read_ground_truth
from eval.detection import DetectionEvaluator
from tools import demo_summary

STRIDE = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    demo.generate(folder, videos=8, seed=0)
    return folder


@pytest.fixture
def run(data, tmp_path) -> Path:
    """A Fine stream that predicts all but context, and a Coarse-Fine network that predicts everything."""
    write_stage(tmp_path, data, "fine", ignorant_of=list(CONTEXT_CLASSES))
    write_stage(tmp_path, data, "coarse", ignorant_of=[])
    return tmp_path


def labelled_videos(data: Path):
    """(video, its frames, its labels (n,C)) of the test videos."""
    videos = CHARADES.load(data / "annotations.json", len(CLASSES)).subset("testing")
    for video, n in find_videos(videos, data / "frames").videos:
        yield video.id, n, frame_labels(video, n, len(CLASSES)).numpy().T


def write_stage(run: Path, data: Path, stage: str, *, ignorant_of: list[int]) -> None:
    evaluator = DetectionEvaluator(num_classes=len(CLASSES), truth=read_ground_truth(data / "ground_truth.csv"))
    for video, n, labels in labelled_videos(data):
        labels = labels[: n // STRIDE * STRIDE]
        scores = labels * 0.9
        scores[:, ignorant_of] = 0.5
        evaluator.add(video, scores, labels, num_frames=n)
    (run / stage / "metrics.json").parent.mkdir()
    (run / stage / "metrics.json").write_text(json.dumps(evaluator.finish(run / stage)))
    (run / stage / "config.yaml").write_text(
        f"data: {{stride: {STRIDE}, min_frames: 162, num_classes: {len(CLASSES)}}}"
    )


def released_row(lines: list[str], name: str) -> list[float]:
    """[all, context, others] of rule released, whose labels match the stored scores."""
    (line,) = (line for line in lines if line.startswith(name))
    return [float(number) for number in line.split()[-3:]]


def test_table_and_verdicts(run, data, capsys):
    assert demo_summary.main([str(run), str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert released_row(lines, "Coarse-Fine") == [100, 100, 100]
    everything, context, others = released_row(lines, "Fine stream")
    assert context < 50 < everything < others == 100
    assert sum("passed: Coarse-Fine above Fine on context" in line for line in lines) == 2


def test_chance_is_the_positive_rate(run, data):
    truth = read_ground_truth(data / "ground_truth.csv", len(CLASSES))
    chance = demo_summary.chance_scores(load_config(run / "fine" / "config.yaml"), data, truth)
    everywhere = np.mean([labels.mean() for _, _, labels in labelled_videos(data)])
    for rule in ("official", "released"):
        assert demo_summary.mean_percent(chance[rule]) == pytest.approx(100 * everywhere, abs=1)


def test_says_what_does_not_hold(run, data, capsys):
    (run / "coarse").rename(run / "better")
    (run / "fine").rename(run / "coarse")
    (run / "better").rename(run / "fine")
    assert demo_summary.main([str(run), str(data)]) == 0
    assert "FAILED: Coarse-Fine above Fine" in capsys.readouterr().out


@pytest.mark.parametrize("with_grid", [True, False])
def test_picture(run, data, tmp_path, with_grid):
    if with_grid:
        grid = {demo.video_id(1): [1.0, 30.5, 61.25], demo.video_id(5): [1.0, 90.0]}
        (run / "coarse" / "predictions" / "grid.json").write_text(json.dumps(grid))
    assert demo_summary.main([str(run), str(data), "--output", str(tmp_path / "new" / "picture.png")]) == 0
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_missing_results_are_one_line(data, tmp_path, capsys):
    assert demo_summary.main([str(tmp_path), str(data)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.yaml" in error


@pytest.mark.parametrize("contents", ["{}", "[1]", "a: [", ""])
@pytest.mark.parametrize("name", ["fine/metrics.json", "coarse/metrics.json", "fine/config.yaml", "demo.json"])
def test_damaged_files_are_one_line(run, data, tmp_path, capsys, name, contents):
    if name == "demo.json":
        data = shutil.copytree(data, tmp_path / "data")
    path = (data if name == "demo.json" else run) / name
    path.write_text(contents)
    assert demo_summary.main([str(run), str(data)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"demo_summary: error: {path}")
