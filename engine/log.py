"""What a run says and records: means over its latest steps, one JSON line an event, TensorBoard."""

import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from common.files import naming, write_text
from datasets.batch import Batch
from engine import distributed
from eval.per_frame import frame_ap, released_frames


class RunLog:
    """The record of one stage: `metrics.jsonl` and `tensorboard/` in its folder.

    Every line has "epoch" (number of epochs done, fractional within one), "step" and "event"; reports read only this.
    A context manager. It continues a record after `step`, 0 for a new one: what an earlier run wrote beyond is dropped.
    Of several processes the main one keeps it, the others' do nothing.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        self.path, self.events = folder / "metrics.jsonl", folder / "tensorboard"
        self.tensorboard = None
        if distributed.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            self._rewind(step)
            self.tensorboard = SummaryWriter(str(self.events), purge_step=step + 1)

    def __enter__(self) -> Self:
        self._excepthook = threading.excepthook
        threading.excepthook = self._show_unless_raised_again
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.tensorboard is not None:
                with naming(self.events):
                    self.tensorboard.close()
        finally:
            threading.excepthook = self._excepthook

    def _show_unless_raised_again(self, failure: threading.ExceptHookArgs) -> None:
        """What TensorBoard's thread cannot write, the main thread hears of when it writes next."""
        if not issubclass(failure.exc_type, OSError):
            self._excepthook(failure)

    def write(self, event: str, *, epoch: float, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, and its numbers to TensorBoard as `event/name`."""
        if self.tensorboard is None:
            return
        line = {"event": event, "epoch": epoch, "step": step, **values}
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        with naming(self.events):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.tensorboard.add_scalar(f"{event}/{name}", value, step)
            self.tensorboard.flush()

    def _rewind(self, step: int) -> None:
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_text(self.path, "".join(kept))


class ClipScores:
    """mAP of the training clips since it was last asked, at the frames of rule "released" within each clip."""

    def __init__(self) -> None:
        self.scores: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def add(self, batch: Batch, probabilities: Tensor) -> None:
        """The clips of a batch, probabilities (B,C,L)."""
        lengths = batch["mask"].sum(1).int().tolist()
        for i, length in enumerate(lengths):
            chosen = torch.from_numpy(released_frames(length)).to(probabilities.device)
            self.scores.append(probabilities[i, :, chosen].T.float().cpu().numpy())
            self.labels.append(batch["labels"][i, :, chosen].T.cpu().numpy() > 0)

    def compute(self) -> float | None:
        """The mAP over all processes, in the main one; undefined (None) without clips."""
        shares = distributed.collect((self.scores, self.labels))
        self.scores, self.labels = [], []
        scores, labels = ([clip for share in shares for clip in share[part]] for part in (0, 1))
        return frame_ap(scores, labels)[1] if scores else None


class Meter:
    """Means over the steps since it was made: losses, and where the time went."""

    def __init__(self) -> None:
        self.steps = 0
        self.losses: dict[str, float] = defaultdict(float)
        self.data_seconds = self.compute_seconds = 0.0

    def add(self, losses: Mapping[str, float], *, data: float, compute: float) -> None:
        self.steps += 1
        for name, value in losses.items():
            self.losses[name] += value
        self.data_seconds += data
        self.compute_seconds += compute

    def means(self) -> dict[str, float]:
        """Of the losses."""
        return {name: total / self.steps for name, total in self.losses.items()}

    def work(self) -> dict[str, float]:
        """How many steps, and their seconds."""
        return {
            "steps": self.steps,
            "data_seconds": round(self.data_seconds, 3),
            "compute_seconds": round(self.compute_seconds, 3),
        }


def percent(value: float | None) -> str:
    """A fraction as a percentage for the console; undefined values say so."""
    return "undefined" if value is None else f"{100 * value:.2f}%"
