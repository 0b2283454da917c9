"""Frames to probabilities through the shell, compared with the published code's: extraction, then stage 3 --eval_only.

The annotations of this case hold test videos only, so neither script may need any for training.
"""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datasets.clips import TestVideos, find_videos
from datasets.kinds import CHARADES
from datasets.transforms import STD, normalise

PROJECT = Path(__file__).resolve().parents[1]


def shell(*command: object) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def expected(golden):
    return np.load(golden / "pipeline" / "expected.npz")


@pytest.fixture(scope="module")
def run(golden, tmp_path_factory) -> Path:
    """The run folder after extraction and evaluation with weights drawn by name."""
    folder = tmp_path_factory.mktemp("pipeline")
    zipfile.ZipFile(golden / "pipeline" / "frames.zip").extractall(folder / "frames")
    spec = importlib.util.spec_from_file_location("named_weights", golden / "named_weights.py")
    named_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(named_weights)
    seeds = json.loads((golden / "pipeline" / "seeds.json").read_text())
    for stream in ("fine", "coarse"):
        named_weights.save_official_checkpoint(stream, seeds[f"{stream}_seed"], folder / f"{stream}.pt")
    (frames,) = {path.parents[1] for path in folder.glob("frames/**/*-000001.jpg")}
    options = [
        *("-gpu", "cpu", "--run.dir", folder / "run", "--data.frames", frames, "--data.workers", 0),
        *("--data.annotations", golden / "pipeline" / "charades.json"),
        *("--data.ground_truth", golden / "pipeline" / "Charades_v1_test.csv"),
        *("--features.checkpoint", folder / "fine.pt"),
    ]
    shell("extract_fineFEAT.py", *options)
    shell("train_coarse_fineFEAT.py", *options, "--eval_only", "true", "--coarse.init", folder / "coarse.pt")
    return folder / "run"


def videos(expected) -> list[str]:
    return sorted({name.split("/")[0] for name in expected.files})


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """{video: (frames, classes)} of a submission, by plain string handling."""
    rows: dict[str, list] = {}
    for line in path.read_text().splitlines():
        video, frame, *scores = line.split()
        rows.setdefault(video, []).append(list(map(float, scores)))
        assert int(frame) == len(rows[video])
    return {video: np.array(frames) for video, frames in rows.items()}


def test_frames_and_labels(golden, run, expected):
    frames = next(run.parent.glob("frames/**/*-000001.jpg")).parents[1]
    listed = find_videos(CHARADES.load(golden / "pipeline" / "charades.json").videos, frames).videos
    samples = TestVideos(listed, frames, num_classes=157, size=224)
    for index, (video, _) in enumerate(listed):
        sample = samples[0, index]
        clip = normalise(sample["clip"][None])[0, :, ::3, ::16, ::16]
        difference = (clip - torch.from_numpy(expected[f"{video.id}/clip"])) * 255 * torch.tensor(STD).view(3, 1, 1, 1)
        assert difference.abs().max() < 0.01, "less than a grey level apart"
        _, L = expected[f"{video.id}/labelshape"]
        labels = np.unpackbits(expected[f"{video.id}/label"], axis=1)[:, :L]
        np.testing.assert_array_equal(sample["labels"], labels)


def test_stored_features(run, expected):
    assert sorted(path.stem for path in (run / "features").glob("*.safetensors")) == videos(expected)
    for video in videos(expected):
        stored = load_file(run / "features" / f"{video}.safetensors")
        assert stored.keys() == {"layer1", "layer2", "layer3", "layer4", "conv5"}
        for layer, features in stored.items():  # (T,C,7,7)
            means = features.float().mean((2, 3)).T
            np.testing.assert_allclose(means, expected[f"{video}/{layer}"], rtol=0, atol=2e-3)


def test_released_predictions(run, expected):
    scores = read_scores(run / "coarse" / "predictions" / "released.txt")
    assert sorted(scores) == videos(expected)
    for video in videos(expected):
        np.testing.assert_allclose(scores[video], expected[f"{video}/probs25"], rtol=0, atol=2e-3)


def test_official_predictions_score_as_printed(golden, run):
    submission = run / "coarse" / "predictions" / "official.txt"
    done = shell("-m", "eval.charades_localize", submission, golden / "pipeline" / "Charades_v1_test.csv")
    metrics = json.loads((run / "coarse" / "metrics.json").read_text())
    assert metrics["mAP_official"] is None, "four videos do not have all classes"
    assert f"fraction {metrics['mAP_official_defined']:.6f}" in done.stdout
    assert "undefined" in done.stdout
    assert all(f"c{name:03d}" in done.stdout for name in metrics["classes_without_positives"])
