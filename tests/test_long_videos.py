"""Evaluation and extraction in windows, as a user runs them, against networks run by hand on pieces of whole videos."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import extract_fineFEAT
import train_coarse_fineFEAT
import train_fine
from datasets import clips
from datasets.batch import collate, prepare
from datasets.clips import TestVideos, find_videos
from datasets.kinds import CHARADES
from engine.checkpoint import read_checkpoint
from eval.submission import read_predictions
from models import CoarseNet, FineNet

STRIDE, CLASSES = 4, 3
LENGTHS = {"te0": 60, "te1": 44, "te2": 60, "te3": 9}  # frames; in clip frames 15, 11, 15, 2
WINDOWS = {15: [0, 4, 8, 9], 11: [0, 4, 5], 2: [0]}  # first frames of windows of 6 that overlap by 2
WINDOW, OVERLAP, FINE_FRAMES = 6, 2, 9
IN_WINDOWS = "--eval.window", WINDOW, "--eval.overlap", OVERLAP
RESULTS = "metrics.json", "predictions/official.txt", "predictions/released.txt"


@pytest.fixture(scope="module", autouse=True)
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tiny_dataset, tiny_run, tmp_path) -> Callable[..., Path]:
    """run(script, option, value, ...) with the weights of `tiny_run`, into a new folder that it returns."""

    def run(script, *options: object, folder: str = "run") -> Path:
        best = {name: tiny_run / name / "checkpoints" / "best.pt" for name in ("fine", "coarse")}
        stages = {
            train_fine: ("--eval_only", "true", "--fine.init", best["fine"]),
            train_coarse_fineFEAT: ("--eval_only", "true", "--coarse.init", best["coarse"]),
            extract_fineFEAT: ("--features.checkpoint", best["fine"]),
        }
        store = () if script is extract_fineFEAT else ("--features.dir", tiny_run / "features")
        common = "-gpu", "cpu", "--config", tiny_dataset / "tiny.yaml", "--run.dir", tmp_path / folder
        script.main([str(part) for part in (*common, *stages[script], *store, *options)])
        return tmp_path / folder

    return run


def network(kind: type, tiny_run: Path):
    name = {FineNet: "fine", CoarseNet: "coarse"}[kind]
    net = kind(num_classes=CLASSES, variant="tiny")
    net.load_state_dict(read_checkpoint(tiny_run / name / "checkpoints" / "best.pt")["model"])
    return net.eval()


@pytest.fixture(scope="module")
def whole(tiny_dataset) -> dict[str, dict]:
    """Every test video's clip and labels, as a batch of one."""
    listed = CHARADES.load(tiny_dataset / "annotations.json", CLASSES).subset("testing")
    found = find_videos(listed, tiny_dataset / "frames").videos
    data = TestVideos(found, tiny_dataset / "frames", num_classes=CLASSES, size=64, stride=STRIDE)
    return {video.id: prepare(collate([data[0, i]]), "cpu") for i, (video, _) in enumerate(found)}


def weighted_mean(starts: list[int], parts: list[np.ndarray], finer: int = 1) -> np.ndarray:
    """(C,t,...) of windows that start at frames `starts`, weighted by their distances to cuts; in double precision."""
    length = finer * starts[-1] + parts[-1].shape[1]
    total = np.zeros((parts[0].shape[0], length, *parts[0].shape[2:]))
    weights = np.zeros(length)
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        t = np.arange(part.shape[1]) + 0.5
        weight = np.full(len(t), 1e9)
        if number:
            weight = np.minimum(weight, t)
        if number + 1 < len(starts):
            weight = np.minimum(weight, len(t) - t)
        here = slice(finer * start, finer * start + len(t))
        total[:, here] += part * weight.reshape(-1, *[1] * (part.ndim - 2))
        weights[here] += weight
    return total / weights.reshape(-1, *[1] * (total.ndim - 2))


def at_labels(logits: torch.Tensor, frames: int, L: int, *, align_corners: bool) -> np.ndarray:
    """Logits (1,C,t) at the labels of a window of so many frames; a video below one stride has L."""
    return F.interpolate(logits, min(L, STRIDE * frames), mode="linear", align_corners=align_corners)[0].numpy()


# --- what fits a window -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "name"), [(train_fine, "fine"), (train_coarse_fineFEAT, "coarse")])
def test_videos_that_fit_a_window_are_evaluated_as_without(run, tiny_run, script, name):
    folder = run(script, "--eval.window", 15) / name
    grid = ("predictions/grid.json",) if name == "coarse" else ()
    for file in (*RESULTS, *grid):
        assert (folder / file).read_bytes() == (tiny_run / name / file).read_bytes(), file


def test_videos_that_fit_a_window_are_extracted_as_without(run, tiny_run):
    folder = run(extract_fineFEAT, "--eval.window", 15) / "features"
    for path in (tiny_run / "features").glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


# --- what does not ----------------------------------------------------------------------------------------------------


def assert_official(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """official.txt holds the probabilities of these logits (C,L) at frames 1..25."""
    predictions = read_predictions(folder / "predictions" / "official.txt", CLASSES)
    assert predictions.keys() == expected.keys()
    for video, logits in expected.items():
        columns = [min(logits.shape[1] - 1, j * LENGTHS[video] // 25) for j in range(25)]
        np.testing.assert_allclose(predictions[video], 1 / (1 + np.exp(-logits[:, columns].T)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_stage_1_in_windows(run, tiny_run, whole):
    """Three at a time in one batch; the loss is that of the blended logits over the whole video."""
    net, expected, losses = network(FineNet, tiny_run), {}, []
    for video, batch in whole.items():
        T, y = batch["clip"].shape[2], batch["labels"][0].numpy()
        pieces = [batch["clip"][:, :, start : start + WINDOW] for start in WINDOWS[T]]
        parts = [at_labels(net(piece), piece.shape[2], y.shape[1], align_corners=True) for piece in pieces]
        expected[video] = x = weighted_mean(WINDOWS[T], parts, STRIDE)
        losses.append(float(np.mean(np.logaddexp(0, x) - x * y)))
    folder = run(train_fine, *IN_WINDOWS, "--eval.batch_size", 3) / "fine"
    assert_official(folder, expected)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["loc_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert metrics["mAP_frames"] is not None


@torch.no_grad()
@pytest.mark.parametrize("fine_window", ["first", "centred"])
def test_stage_3_in_windows(run, tiny_run, whole, fine_window):
    """Each window at its place on the fine axis; the frames that Grid Pool chose ascend from the first to the last."""
    net, expected = network(CoarseNet, tiny_run), {}
    for video, batch in whole.items():
        T, L = batch["clip"].shape[2], batch["labels"].shape[2]
        stored = load_file(tiny_run / "features" / f"{video}.safetensors")
        parts = []
        for start in WINDOWS[T]:
            piece = batch["clip"][:, :, start : start + WINDOW]
            first = 0
            if fine_window == "centred":
                first = min(max(start + piece.shape[2] // 2 - FINE_FRAMES // 2, 0), max(T - FINE_FRAMES, 0))
            fine = {k: f[first : first + FINE_FRAMES].float().transpose(0, 1)[None] for k, f in stored.items()}
            mask = torch.ones(1, min(FINE_FRAMES, T))
            logits = net(piece, fine, mask, torch.tensor([start - first]))
            parts.append(at_labels(logits, piece.shape[2], L, align_corners=False))
        expected[video] = weighted_mean(WINDOWS[T], parts, STRIDE)
    options = "--data.fine_window", fine_window, "--data.fine_frames", FINE_FRAMES
    folder = run(train_coarse_fineFEAT, *IN_WINDOWS, *options) / "coarse"
    assert_official(folder, expected)
    grids = json.loads((folder / "predictions" / "grid.json").read_text())
    for video, frames in grids.items():
        T = whole[video]["clip"].shape[2]
        assert (frames[0], frames[-1]) == (1, pytest.approx(1 + STRIDE * (T - 1), abs=0.02))
        assert all(a < b for a, b in pairwise(frames))
        assert len(frames) >= len(WINDOWS[T])


@torch.no_grad()
def test_extraction_in_windows(run, tiny_run, whole):
    folder = run(extract_fineFEAT, *IN_WINDOWS, "--features.dtype", "float32") / "features"
    net = network(FineNet, tiny_run)
    for video, batch in whole.items():
        starts = WINDOWS[batch["clip"].shape[2]]
        parts = [net.features(batch["clip"][:, :, start : start + WINDOW]) for start in starts]
        stored = load_file(folder / f"{video}.safetensors")
        for layer, features in stored.items():
            blended = weighted_mean(starts, [part[layer][0].numpy() for part in parts])
            np.testing.assert_allclose(features.transpose(0, 1), blended, rtol=1e-4, atol=1e-5)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["window"], manifest["overlap"], len(manifest["videos"])) == (WINDOW, OVERLAP, 11)


def test_an_extraction_with_other_windows_is_refused(run, capsys):
    run(extract_fineFEAT, *IN_WINDOWS)
    for options in ((), ("--eval.window", WINDOW)):
        with pytest.raises(SystemExit) as end:
            run(extract_fineFEAT, *options)
        assert end.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "manifest.json: features were extracted with " in line
        assert "but --eval." in line


# --- memory and failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [train_fine, train_coarse_fineFEAT, extract_fineFEAT])
def test_no_more_than_a_window_is_decoded_at_a_time(run, monkeypatch, script):
    decoded, read_frames = [], clips.read_frames

    def counting(root, video, numbers, decode):
        decoded.append(len(numbers))
        return read_frames(root, video, numbers, decode)

    monkeypatch.setattr(clips, "read_frames", counting)
    run(script, *IN_WINDOWS)
    assert max(decoded) == WINDOW
    assert sum(decoded) > sum(n // STRIDE for n in LENGTHS.values())


@pytest.fixture
def with_a_broken_frame(tiny_dataset, tmp_path) -> tuple[object, ...]:
    """Options for a dataset whose video te0 breaks in its third window."""
    for path in (tiny_dataset / "frames").glob("*/*.jpg"):
        link = tmp_path / "frames" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    frame = tmp_path / "frames" / "te0" / f"te0-{1 + STRIDE * 11:06d}.jpg"
    frame.unlink()
    frame.write_bytes(b"no JPEG")
    return *IN_WINDOWS, "--data.frames", tmp_path / "frames", "--data.on_bad_sample", "skip"


def test_a_video_that_breaks_in_its_middle_is_skipped_whole(run, with_a_broken_frame, capsys):
    folder = run(train_coarse_fineFEAT, *with_a_broken_frame) / "coarse"
    assert capsys.readouterr().err.count("skipped (1 of 4 videos so far)") == 1
    left = {"te1", "te2", "te3"}
    assert read_predictions(folder / "predictions" / "official.txt", CLASSES).keys() == left
    assert json.loads((folder / "predictions" / "grid.json").read_text()).keys() == left
    features = run(extract_fineFEAT, *with_a_broken_frame) / "features"
    stored = {path.name for path in features.iterdir()}
    assert stored == {"manifest.json", *(f"{video}.safetensors" for video in (*left, *(f"tr{i}" for i in range(7))))}


def test_windows_while_training(run, tiny_dataset, tmp_path):
    """A validation is an evaluation in the same windows."""
    config, best = tiny_dataset / "tiny.yaml", tmp_path / "train" / "fine" / "checkpoints" / "best.pt"
    train_fine.main(
        [str(p) for p in ("-gpu", "cpu", "--config", config, "--run.dir", tmp_path / "train", *IN_WINDOWS,
                          "--fine.max_steps", 1)]
    )  # fmt: skip
    folder = run(train_fine, *IN_WINDOWS, "--fine.init", best)
    for file in RESULTS:
        assert (folder / "fine" / file).read_bytes() == (tmp_path / "train" / "fine" / file).read_bytes()
