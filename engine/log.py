"""Logging of a run: sums over the latest steps, a JSON line per event, and TensorBoard."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from common.files import JsonObject, naming, write_text
from datasets.batch import Batch
from engine import distributed
from eval.per_frame import frame_ap, released_frames


class RunLog:
    """The log of one stage: `metrics.jsonl` and `tensorboard/` in its folder.

    Every line has "epoch" (completed epochs, fractional within an epoch), "step" and "event"; reports read only this.
    Logging continues after `step` (0: a new log); later entries of an earlier run are dropped. Only the main process
    writes.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self.events = folder / "tensorboard" / f"events.out.tfevents.{time.time():.6f}"
        if distributed.is_main():
            self.events.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                lines = self.path.read_text().splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                write_text(self.path, "".join(kept))
            begin = SessionLog(status=SessionLog.START)  # replaces existing events from here on
            self._record(Event(file_version="brain.Event:2"), Event(step=step + 1, session_log=begin))

    def write(self, event: str, *, epoch: float, step: int, values: JsonObject) -> None:
        """Append one line, and add its numbers to TensorBoard as `event/name`."""
        if not distributed.is_main():
            return
        line = {"event": event, "epoch": epoch, "step": step, **values}
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        points = [Summary.Value(tag=f"{event}/{name}", simple_value=value) for name, value in numbers.items()]
        self._record(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def _record(self, *events: Event) -> None:
        """Write TensorBoard events directly, since SummaryWriter's thread does not report errors."""
        with naming(self.events), self.events.open("ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())


@dataclass
class ClipScores:
    """mAP of the training clips since the last `compute`, on the frames of rule "released" in each clip."""

    scores: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)

    def add(self, batch: Batch, probabilities: Tensor) -> None:
        """Add the clips of a batch with probabilities (B,C,L)."""
        lengths = batch["mask"].sum(1).int().tolist()
        for i, length in enumerate(lengths):
            chosen = torch.from_numpy(released_frames(length)).to(probabilities.device)
            self.scores.append(probabilities[i, :, chosen].T.float().cpu().numpy())
            self.labels.append(batch["labels"][i, :, chosen].T.cpu().numpy() > 0)

    def compute(self) -> float | None:
        """The mAP over all processes, in the main process; None without clips."""
        shares = distributed.collect((self.scores, self.labels))
        self.scores, self.labels = [], []
        scores, labels = ([clip for share in shares for clip in share[part]] for part in (0, 1))
        return frame_ap(scores, labels)[1] if scores else None


@dataclass
class Meter:
    """Sums over steps: losses, data time and compute time."""

    steps: int = 0
    losses: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    data_seconds: float = 0.0
    compute_seconds: float = 0.0

    def add(self, losses: Mapping[str, float], *, data: float, compute: float) -> None:
        self.steps += 1
        for name, value in losses.items():
            self.losses[name] += value
        self.data_seconds += data
        self.compute_seconds += compute


def percent(value: float | None) -> str:
    """Format a fraction as a percentage; None becomes "undefined"."""
    return "undefined" if value is None else f"{100 * value:.2f}%"
