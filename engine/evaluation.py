"""One pass over the test videos, read from top to bottom: batches, logits, whole videos, scores, files and metrics.

A video longer than `eval.window` comes in windows. Losses and scores are of whole videos, to which the windows' logits
are blended first; with several processes each has its share of the videos, and the main one alone the metrics.
"""

import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.files import write_json
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
    """Evaluates networks of one stage on the test videos: metrics, both prediction files, Grid Pool's frames.

    The files of a pass stand in `latest/` of the stage's folder until `keep` makes them the stage's own, or `drop`
    removes them.
    """

    def __init__(
        self, config: Config, stage: str, annotations: Annotations, loader: Loader, device: torch.device
    ) -> None:
        data = config.data
        dense = stage == "fine" or data.kind != "charades"  # rule "dense" is MultiTHUMOS's own
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

    def __call__(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of a network, which itself stays as it is; none but in the main process.

        Losses are means over the videos.

        Raises:
            Stopped: when a signal asked for it.
        """
        net = prepare_for_inference(net)
        losses: Lists = defaultdict(list)
        grids: Lists = defaultdict(list)
        join = WindowJoiner()
        with torch.no_grad(), sampled_locations(net) as passes:
            for batch in self._batches():
                logits, _ = logits_at_labels(net, batch)
                if passes:  # of Grid Pool, where there is one
                    rows = zip(batch["videos"], batch["parts"], passes.pop().tolist(), strict=True)
                    for video, part, locations in rows:
                        grids[video] += chosen_frames(part, locations, self.stride)
                for videos in join(batch, logits):
                    self.add(videos, losses)
        return self._metrics(losses, grids)

    def _batches(self) -> Iterator[Batch]:
        """This process's share, on the device; all processes stop together where a signal asks one of them."""
        batches = progress(self.loader, len(self.loader), "Evaluating")
        (rounds,) = distributed.highest(len(self.loader))  # shares may differ by a batch, but all must hear of a signal
        for _ in range(rounds):
            (signal,) = distributed.highest(requested())
            if signal:
                raise Stopped(signal)
            batch = next(batches, None)
            if batch is not None:
                yield prepare(batch, self.device)
        next(batches, None)  # the bar's last word

    def add(self, videos: "WholeVideos", losses: Lists) -> None:
        """Each video's losses and what is scored of it."""
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

    def _metrics(self, losses: Lists, grids: Lists) -> dict[str, Any]:
        """Of all processes' videos, in the main one; to the last bit those of one process, as its losses' sums are
        exact, hence in any order the same."""
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

    def keep(self, metrics: Mapping[str, Any]) -> None:
        """Make the latest results the stage's: `predictions/` and `metrics.json`."""
        kept = self.folder / "predictions"
        kept.mkdir(parents=True, exist_ok=True)
        for file in (self.latest / "predictions").iterdir():
            file.replace(kept / file.name)
        if not self.evaluator.save_frames:
            (kept / "dense.npz").unlink(missing_ok=True)  # of an earlier evaluation, so of other scores
        self.drop()
        write_json(self.folder / "metrics.json", metrics)

    def drop(self) -> None:
        """Remove the files of the latest pass."""
        shutil.rmtree(self.latest, ignore_errors=True)


# --- whole videos from windows ----------------------------------------------------------------------------------------


class WholeVideos(NamedTuple):
    """Whole test videos of equal length: b of them, or one whose windows have been blended."""

    ids: list[str]
    logits: Tensor  # (b,C,L)
    labels: Tensor  # (b,C,L)
    mask: Tensor  # (b,L), 1 at valid labels
    num_frames: Tensor  # (b,), frames of the videos


class WindowJoiner:
    """Joins the logits of windows, which come in order, and their labels.

    Logits are blended, not probabilities: the loss of a video is then that of the very prediction that is scored. What
    is kept of a video is its logits and labels, 8 C bytes for each of its frames.
    """

    def __init__(self) -> None:
        self.joins = Joins()
        self.pieces: dict[str, list[dict[str, Tensor]]] = defaultdict(list)

    def __call__(self, batch: Batch, logits: Tensor) -> Iterator[WholeVideos]:
        """A batch of test videos and its logits (B,C,L): as they are where the videos fit one window each.

        Otherwise each video by itself, once its last window is there; one of which a window could not be read never
        comes.
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
    """Grid Pool's frames of one window as video frames from 1; `locations` are theirs in the window, in clip frames.

    Of a window these are the ones nearer to its middle than to its neighbours', so that a video's frames ascend.
    """
    start, _ = part.windows[part.number]
    low, high = [-math.inf, *borders(part.windows), math.inf][part.number : part.number + 2]
    times = [start + t for t in locations if low <= start + t + 0.5 < high]  # frame t is from t to t + 1
    return [round(1 + stride * t, 2) for t in times]


# --- what metrics say -------------------------------------------------------------------------------------------------


def selected_score(metrics: Mapping[str, Any], kind: str) -> float:
    """By what the best validation on a dataset of this kind is chosen; -1 where it is undefined."""
    mAP: float | None = metrics["mAP_official_defined" if kind == "charades" else "mAP_frames"]
    return -1.0 if mAP is None else mAP


def print_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Both rules by name, and what they were computed on."""
    print(f"{folder / 'metrics.json'}:")
    print(f"  mAP, rule official  {percent(metrics['mAP_official'])}   (wAP {percent(metrics['wAP_official'])})")
    if metrics["classes_without_positives"]:
        print(
            f"    {len(metrics['classes_without_positives'])} classes have no positives; "
            f"mean over the others {percent(metrics['mAP_official_defined'])}"
        )
    print(f"  mAP, rule released  {percent(metrics['mAP_released'])}")
    if "mAP_frames" in metrics:
        print(f"  mAP, rule dense     {percent(metrics['mAP_frames'])}   (all frames)")
