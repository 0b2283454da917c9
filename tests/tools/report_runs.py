"""A small finished run, written by hand as the stages do: no training, known scores, names containing markup."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from configs.cli import load
from configs.files import save_yaml
from engine.checkpoint import save_checkpoint
from eval.charades_localize import Truth
from eval.detection import DetectionEvaluator

HOSTILE = "</script><script>window.hacked = 1</script><b class=hacked>&amp;"
NAMES = ["sitting", HOSTILE, "running & jumping", "never happening"]
C, STRIDE, SECONDS, FRAMES = len(NAMES), 2, 5.0, 50
T, N = 25, 7  # clip frames per video, and regions of Grid Pool: ceil(T / 4)
QUALITY = {"good": 0.9, "fair": 0.4, "poor": 0.0, "no<b>actions": 0.0}  # weight of the truth in the scores
ACTIONS = [[0, 0.5, 2.1], [1, 1.5, 4.5], [0, 3.0, 3.5], [2, 4.0, 9.0]]


def write_run(folder: Path) -> Path:
    """Write a run and, next to it, its data. Returns the run folder."""
    data = folder / "data"
    for video in QUALITY:
        write_frames(data / "frames" / video)
    annotations = {
        video: {"subset": "testing", "duration": SECONDS, "actions": [] if "no" in video else ACTIONS}
        for video in QUALITY
    }
    (data / "annotations.json").write_text(json.dumps(annotations))
    (data / "names.txt").write_text("\n".join(NAMES))
    for stage, share in (("fine", 0.5), ("coarse", 1.0)):
        write_stage(folder / "run" / stage, data, annotations, share)
    return folder / "run"


def write_frames(folder: Path) -> None:
    """Write 32x24 px frames; frame k has the colour (k, k, 200)."""
    folder.mkdir(parents=True)
    for k in range(1, FRAMES + 1):
        Image.new("RGB", (32, 24), (k, k, 200)).save(folder / f"{folder.name}-{k:06d}.jpg", quality=95)


def write_stage(folder: Path, data: Path, annotations: dict, share: float) -> None:
    stage = folder.name
    evaluator = DetectionEvaluator(
        num_classes=C,
        truth={video: Truth(entry["actions"], entry["duration"]) for video, entry in annotations.items()},
        min_frames=20,
        all_frames=stage == "fine",
    )
    rng = np.random.default_rng(0)
    for video, entry in annotations.items():
        labels = labels_of(entry["actions"])
        know = QUALITY[video] * share
        evaluator.add(video, know * labels + (1 - know) * rng.random(labels.shape), labels, num_frames=FRAMES)
    metrics = evaluator.finish(folder) | {"loss": 0.5, "cls_loss": 0.6, "loc_loss": 0.4}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_log(folder / "metrics.jsonl", metrics)
    if stage == "coarse":
        (folder / "predictions" / "grid.json").write_text(json.dumps(dict.fromkeys(annotations, even_grid())))
    write_config(folder / "config.yaml", data)
    contents = {"stage": stage, "config": {}, "config_sha256": "0123456789abcdef", "version": "9.8.7", "model": {}}
    (folder / "checkpoints").mkdir()
    save_checkpoint(folder / "checkpoints" / "best.pt", contents | {"position": {"epoch": 4, "step": 12}})
    (folder / "tensorboard").mkdir()
    for second in (1_700_000_500, 1_700_000_000):
        (folder / "tensorboard" / f"events.out.tfevents.{second}.host.1.0").touch()


def write_config(path: Path, data: Path) -> None:
    short = path.with_name("short.yaml")
    short.write_text(
        f"run.name: a <i>run</i>\ndata.frames: {data}/frames\ndata.annotations: {data}/annotations.json\n"
        f"data.class_names: {data}/names.txt\ndata.num_classes: {C}\ndata.stride: {STRIDE}\ndata.min_frames: 20\n"
        "model.variant: tiny\nfine.epochs: 6\ncoarse.epochs: 6\nfine.init: none\ncoarse.init: none\n"
    )
    save_yaml(load(short), path)
    short.unlink()


def write_log(path: Path, metrics: dict, *, epochs: int = 6) -> None:
    """Two training lines per epoch, and a validation after every second epoch; that of epoch 4 is the best."""
    lines = []
    for half in range(1, 2 * epochs + 1):
        epoch, step = half / 2, 3 * half // 2
        losses = {"loss": 1 / half, "cls_loss": 1.2 / half, "loc_loss": 0.8 / half}
        times = {"steps": 2, "data_seconds": 0.5, "compute_seconds": 1.5}
        train = {"event": "train", "epoch": epoch, "step": step, **losses, "mAP": half / 20, **times}
        lines.append(train | {"lr": 0.1 if epoch <= 4 else 0.01})
        if epoch % 2 == 0:
            best = {"mAP_official": None, "mAP_official_defined": 0.6 if epoch == 4 else 0.3, "loss": 0.5}
            lines.append({**metrics, **best, "event": "validation", "epoch": epoch, "step": step})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def labels_of(actions: list) -> np.ndarray:
    """Labels (FRAMES,C), with label frame k at k / FRAMES of the video."""
    times = np.arange(FRAMES) * SECONDS / FRAMES
    labels = np.zeros((FRAMES, C))
    for label, start, end in actions:
        labels[(start < times) & (times < end), label] = 1
    return labels


def even_grid() -> list[float]:
    """The video frames (from 1) selected by Grid Pool if confidence is uniform."""
    return [1 + STRIDE * (T - 1) * j / N for j in range(N + 1)]
