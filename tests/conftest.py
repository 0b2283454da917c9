"""What tests of several packages share: the golden data, in a folder `shared/` beside the project's own, and a dataset
with a run of all three stages, made on the fly in seconds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent: outputs of the published code are compared only where it is present")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the published code and `named_weights.py`, which regenerates their weights and inputs."""
    return _shared("golden")


@pytest.fixture(scope="session")
def annotations() -> Path:
    """The real Charades and MultiTHUMOS annotations (non-commercial licence: never part of the repository)."""
    return _shared("annotations")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training and four test videos of 80x64 px: frames/, annotations.json, and tiny.yaml, which names them.

    Clips of 8 frames at stride 4. Test video te3 has nine frames: below `data.min_frames`, and two clip frames.
    """
    folder = tmp_path_factory.mktemp("tiny")
    lengths = {f"tr{i}": n for i, n in enumerate((60, 52, 44, 40, 57, 48, 41))}
    lengths |= {"te0": 60, "te1": 44, "te2": 60, "te3": 9}
    annotations = {}
    for seed, (video, n) in enumerate(lengths.items()):
        write_frames(folder / "frames" / video, n, seed)
        duration = n / 24
        annotations[video] = {
            "subset": "training" if video.startswith("tr") else "testing",
            "duration": duration,
            "actions": [[0, 0.1, duration / 2], [1, 0.3 * duration, 0.9 * duration], [2, 0.6 * duration, duration + 1]],
        }
    (folder / "annotations.json").write_text(json.dumps(annotations))
    experiment = {
        "data": {
            "frames": str(folder / "frames"),
            "annotations": str(folder / "annotations.json"),
            "num_classes": 3,
            "stride": 4,
            "clip_span": 32,
            "min_frames": 20,
            "workers": 0,
        },
        "model": {"variant": "tiny"},
        "fine": {"init": "none", "batch_size": 2, "epochs": 2, "round_epochs": 1},
        "coarse": {"init": "none", "batch_size": 2, "epochs": 2, "round_epochs": 1},
        "run": {"threads": 1},
    }
    (folder / "tiny.yaml").write_text(json.dumps(experiment))  # JSON is YAML
    return folder


def write_frames(folder: Path, n: int, seed: int) -> None:
    """A pattern that moves to the right, one pixel a frame, as JPEG frames."""
    pattern = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    folder.mkdir(parents=True)
    for k in range(1, n + 1):
        Image.fromarray(np.roll(pattern, k, 1)).save(folder / f"{folder.name}-{k:06d}.jpg")


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of all three stages on `tiny_dataset`, made through the shell; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    for script in ("train_fine.py", "extract_fineFEAT.py", "train_coarse_fineFEAT.py"):
        command = [sys.executable, script, "-gpu", "cpu", "--config", tiny_dataset / "tiny.yaml", "--run.dir", folder]
        if script.startswith("train_coarse"):
            command += ["--coarse.init", folder / "fine" / "checkpoints" / "best.pt"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder / f"{script}.stderr").write_text(done.stderr)
    return folder
