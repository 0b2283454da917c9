"""Evaluation on the test videos: batches, logits, whole videos, scores, files and metrics.

Videos longer than `eval.window` are split into windows, whose logits are blended before losses and scores are computed
on whole videos. Each process evaluates its share of the videos; the main process computes the metrics.
"""

import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.files import JsonObject, write_json
from common.progress import progress
from common.signals import Stopped, requested
from configs.schema import Config
from datasets.annotations import Annotations
from datasets.assembly import read_truth
from datasets.batch import Batch, Loader, prepare
from datasets.windows import Joins, Part, borders
from engine import distributed
from engine.log import percent
from engine.networks import logits_at_labels
from eval.detection import DetectionEvaluator
from models import prepare_for_inference
from models.losses import loss_at_labels
from models.pooling import sampled_locations

Lists = dict[str, list[float]]


class Evaluation:
    """Evaluates networks of one stage on the test videos: metrics, both prediction files, frames read by Grid Pool.

    Each pass writes its files to `latest/` in the stage's folder. `keep` makes them the results of the stage, `drop`
    removes them.
    """

    def __init__(
        self, config: Config, stage: str, annotations: Annotations, loader: Loader, device: torch.device
    ) -> None:
        data = config.data
        dense = stage == "fine" or data.kind != "charades"  # MultiTHUMOS uses rule "dense"
        self.evaluator = DetectionEvaluator(
            num_classes=data.num_classes,
            truth=read_truth(config, annotations),
            min_frames=data.min_frames,
            all_frames=dense or config.eval.save_frames,
            save_frames=config.eval.save_frames,
        )
        self.stride, self.loader, self.device = data.stride, loader, device
        self.folder = config.run_dir / stage
        self.latest = self.folder / "latest"

    def __call__(self, net: nn.Module) -> JsonObject:
        """Evaluate a network, which is not changed. Returns the metrics in the main process, {} in the others.

        Losses are averaged over videos.

        Raises:
            Stopped: if a signal requested it.
        """
        net = prepare_for_inference(net)
        losses: Lists = defaultdict(list)
        grids: Lists = defaultdict(list)
        join = WindowJoiner()
        with torch.no_grad(), sampled_locations(net) as passes:
            for batch in self._batches():
                logits, _ = logits_at_labels(net, batch)
                if passes:  # only with Grid Pool
                    rows = zip(batch["videos"], batch["parts"], passes.pop().tolist(), strict=True)
                    for video, part, locations in rows:
                        grids[video] += chosen_frames(part, locations, self.stride)
                for videos in join(batch, logits):
                    self.add(videos, losses)
        return self._metrics(losses, grids)

    def _batches(self) -> Iterator[Batch]:
        """This process's batches, on the device. All processes stop together if one receives a signal."""
        batches = progress(self.loader, len(self.loader), "Evaluating")
        (rounds,) = distributed.highest(len(self.loader))  # shares may differ by one batch, but all must see a signal
        for _ in range(rounds):
            (signal,) = distributed.highest(requested())
            if signal:
                raise Stopped(signal)
            batch = next(batches, None)
            if batch is not None:
                yield prepare(batch, self.device)
        next(batches, None)  # completes the progress bar

    def add(self, videos: "WholeVideos", losses: Lists) -> None:
        """Add the losses and scores of each video."""
        probabilities = torch.sigmoid(videos.logits)
        for row, video in enumerate(videos.ids):
            one = slice(row, row + 1)
            loss = loss_at_labels(videos.logits[one], videos.labels[one], videos.mask[one])
            for name, value in loss.items():
                losses[name].append(value.item())
            self.evaluator.add(
                video,
                probabilities[row].T.float().cpu().numpy(),
                videos.labels[row].T.cpu().numpy(),
                num_frames=int(videos.num_frames[row]),
            )

    def _metrics(self, losses: Lists, grids: Lists) -> JsonObject:
        """The metrics over all processes, in the main process. They equal those of a single process to the last bit,
        since the losses are summed exactly, in any order."""
        shares = distributed.collect((self.evaluator.videos, dict(losses), dict(grids)))
        if not distributed.is_main():
            self.evaluator.videos = {}
            return {}
        for scores, _, _ in shares:
            self.evaluator.videos.update(scores)
        self.drop()
        evaluated = sorted(self.evaluator.videos)
        metrics = self.evaluator.finish(self.latest)
        chosen = {video: frames for _, _, share in shares for video, frames in share.items()}
        if chosen := {video: chosen[video] for video in evaluated if video in chosen}:
            write_json(self.latest / "predictions" / "grid.json", chosen)
        for name in dict.fromkeys(name for _, share, _ in shares for name in share):
            values = [value for _, share, _ in shares for value in share.get(name, [])]
            metrics[name] = math.fsum(values) / len(values)
        return metrics

    def keep(self, metrics: JsonObject) -> None:
        """Make the latest results those of the stage: `predictions/` and `metrics.json`."""
        kept = self.folder / "predictions"
        kept.mkdir(parents=True, exist_ok=True)
        for file in (self.latest / "predictions").iterdir():
            file.replace(kept / file.name)
        if not self.evaluator.save_frames:
            (kept / "dense.npz").unlink(missing_ok=True)  # from an earlier evaluation
        self.drop()
        write_json(self.folder / "metrics.json", metrics)

    def drop(self) -> None:
        """Delete the files of the latest pass."""
        shutil.rmtree(self.latest, ignore_errors=True)


# --- whole videos from windows ----------------------------------------------------------------------------------------


class WholeVideos(NamedTuple):
    """A batch of b whole test videos of equal length; b = 1 if windows were blended."""

    ids: list[str]
    logits: Tensor  # (b,C,L)
    labels: Tensor  # (b,C,L)
    mask: Tensor  # (b,L), 1 for valid labels
    num_frames: Tensor  # (b,), in video frames


class WindowJoiner:
    """Joins the logits and labels of windows, which arrive in order.

    Logits are blended instead of probabilities, so that the loss is computed on the same prediction as the scores.
    Memory: logits and labels take 8 C bytes per frame of a video.
    """

    def __init__(self) -> None:
        self.joins = Joins()
        self.pieces: dict[str, list[dict[str, Tensor]]] = defaultdict(list)

    def __call__(self, batch: Batch, logits: Tensor) -> Iterator[WholeVideos]:
        """Yield whole videos from a batch and its logits (B,C,L): the batch itself if each video is a single window.

        Otherwise each video is yielded alone after its last window. A video with an unreadable window is never
        yielded.
        """
        ids, labels, num_frames = batch["videos"], batch["labels"], batch["num_frames"]
        if all(len(part.windows) == 1 for part in batch["parts"]):
            yield WholeVideos(ids, logits, labels, batch["mask"], num_frames)
            return
        for row, (video, part) in enumerate(zip(ids, batch["parts"], strict=True)):
            piece = self.joins.add(video, part, {"logits": logits[row], "labels": labels[row]})
            self.pieces[video].append(piece)
            if part.number + 1 < len(part.windows):
                continue
            pieces = self.pieces.pop(video)
            if piece:
                whole = {name: torch.cat([piece[name] for piece in pieces], 1)[None] for name in piece}
                mask = labels.new_ones(1, whole["labels"].shape[2])
                yield WholeVideos([video], whole["logits"], whole["labels"], mask, num_frames[row : row + 1])


def chosen_frames(part: Part, locations: Sequence[float], stride: int) -> list[float]:
    """The frames read by Grid Pool in one window, in video frames from 1; `locations` are in clip frames of the window.

    Frames closer to the middle of a neighbouring window are omitted, so that the frames of a video are ascending.
    """
    start, _ = part.windows[part.number]
    low, high = [-math.inf, *borders(part.windows), math.inf][part.number : part.number + 2]
    times = [start + t for t in locations if low <= start + t + 0.5 < high]  # frame t spans t to t + 1
    return [round(1 + stride * t, 2) for t in times]


# --- reporting metrics ------------------------------------------------------------------------------------------------


def selected_score(metrics: JsonObject, kind: str) -> float:
    """The score that selects the best validation for this kind of dataset; -1 if undefined."""
    mAP: float | None = metrics["mAP_official_defined" if kind == "charades" else "mAP_frames"]
    return -1.0 if mAP is None else mAP


def print_metrics(folder: Path, metrics: JsonObject) -> None:
    """Print the mAP by each rule, and the number of classes without positives."""
    print(f"{folder / 'metrics.json'}:")
    print(f"  mAP (official)  {percent(metrics['mAP_official'])}   (wAP {percent(metrics['wAP_official'])})")
    if metrics["classes_without_positives"]:
        print(
            f"    {len(metrics['classes_without_positives'])} classes have no positives; "
            f"mean over the others {percent(metrics['mAP_official_defined'])}"
        )
    print(f"  mAP (released)  {percent(metrics['mAP_released'])}")
    if "mAP_frames" in metrics:
        print(f"  mAP (dense)     {percent(metrics['mAP_frames'])}   (all frames)")
