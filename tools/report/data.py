"""What a run folder tells about itself, for `tools.report`: both training stages, finished, under way or absent.

Only what the stages write is read: `metrics.jsonl`, `metrics.json`, `config.yaml`, `predictions/`, and what the best
checkpoint says of itself. Whatever is not there yet is None or empty; what is damaged is an InputError, but for the
last line of a `metrics.jsonl` whose run was killed while writing it: that line is left out, and a note says so.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.errors import InputError
from configs.cli import load
from configs.schema import Config
from engine.checkpoint import CheckpointError, read_checkpoint
from eval.charades_localize import read_predictions
from tools.runs import STREAMS, read_chosen, read_metrics


@dataclass(frozen=True)
class Best:
    """What `best.pt` says of itself."""

    epoch: int  # epochs done
    step: int
    version: str  # of the code that wrote it
    config_sha256: str


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One training stage of a run.

    Attributes:
        train, validation: The lines of metrics.jsonl by event, in order.
        metrics: Of the best validation or the latest --eval_only.
        scores: {video: (25,C)} of predictions/official.txt, -inf where it has no line; empty without the file.
        every_frame: predictions/dense.npz, where the run has written it.
        chosen: {video: frames that Grid Pool chose}, video frames counted from 1.
        started, updated: When the first process of the run began, and when the last line was written.
    """

    key: str
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    config: Config | None
    config_text: str
    metrics: dict[str, Any] | None
    scores: dict[str, np.ndarray]
    every_frame: Path | None
    chosen: dict[str, list[float]]
    best: Best | None
    started: datetime | None
    updated: datetime | None
    notes: list[str]

    @property
    def title(self) -> str:
        return STREAMS[self.key]

    @property
    def status(self) -> str:
        """How far training is, in a few words."""
        lines = sorted([*self.train, *self.validation], key=lambda line: line["step"])
        if not lines:
            return "evaluated only" if self.metrics else "no epoch finished yet"
        epoch, step = lines[-1]["epoch"], lines[-1]["step"]
        if self.config is None:
            return f"{epoch:g} epochs, {step} steps"
        stage = getattr(self.config, self.key)
        if epoch >= stage.epochs or (stage.max_steps is not None and step >= stage.max_steps):
            return f"finished after {epoch:g} epochs, {step} steps"
        return f"{epoch:g} of at most {stage.epochs} epochs, {step} steps"


@dataclass(frozen=True)
class RunRecord:
    """A run: its stages in order, one at least."""

    folder: Path
    stages: list[StageRecord]

    @property
    def config(self) -> Config | None:
        """The last stage's that has one; None for a run that was evaluated only."""
        return next((stage.config for stage in reversed(self.stages) if stage.config), None)

    @property
    def name(self) -> str:
        return self.config.run.name if self.config else self.folder.resolve().name

    @property
    def scored(self) -> StageRecord | None:
        """The last stage with predictions."""
        return next((stage for stage in reversed(self.stages) if stage.scores), None)

    @property
    def num_classes(self) -> int:
        """Of the configuration, else of the predictions; 0 where neither is there."""
        if self.config:
            return self.config.data.num_classes
        return next(iter(self.scored.scores.values())).shape[1] if self.scored else 0


def read_run(folder: Path, config: Path | None = None) -> RunRecord:
    """Everything there is to report of the run in `folder`; `config` stands in where a stage has no config.yaml."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a run, such as runs/charades")
    present = [key for key in STREAMS if (folder / key).is_dir()]
    if not present:
        inside = folder.name in STREAMS and (folder / "metrics.jsonl").is_file()
        remedy = f"give the run's folder, {folder.parent}" if inside else "give the folder of a run, as runs/charades"
        raise InputError(f"{folder}: not a run: it has neither {' nor '.join(f'{key}/' for key in STREAMS)}; {remedy}")
    given = load(config) if config else None
    return RunRecord(folder, [read_stage(folder, key, given) for key in present])


def read_stage(run: Path, key: str, given: Config | None) -> StageRecord:
    folder, predictions = run / key, run / key / "predictions"
    log, dense = folder / "metrics.jsonl", predictions / "dense.npz"
    lines, notes = read_log(log)
    config = if_there(folder / "config.yaml", load) or given
    num_classes = config.data.num_classes if config else None
    try:
        best = if_there(folder / "checkpoints" / "best.pt", lambda path: read_best(path, key))
    except CheckpointError as error:
        best = None
        notes.append(str(error))
    return StageRecord(
        key=key,
        train=[line for line in lines if line["event"] == "train"],
        validation=[line for line in lines if line["event"] == "validation"],
        config=config,
        config_text=if_there(folder / "config.yaml", lambda path: path.read_text(encoding="utf-8")) or "",
        metrics=if_there(folder / "metrics.json", read_metrics),
        scores=if_there(predictions / "official.txt", lambda path: read_predictions(path, num_classes)) or {},
        every_frame=dense if dense.is_file() else None,
        chosen=if_there(predictions / "grid.json", read_chosen) or {},
        best=best,
        started=first_start(folder / "tensorboard"),
        updated=if_there(log, lambda path: datetime.fromtimestamp(path.stat().st_mtime)),
        notes=notes,
    )


# --- files ------------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def if_there(path: Path, read: Callable[[Path], T]) -> T | None:
    """What the file holds; None without the file."""
    return read(path) if path.is_file() else None


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a metrics.jsonl, none without the file, and notes on what was left out."""
    if not path.is_file():
        return [], []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    lines = []
    for number, text in enumerate(texts, start=1):
        line = parsed_line(text)
        if line is not None:
            lines.append(line)
        elif number == len(texts):
            return lines, [f"{path.name}: its last line, number {number}, is incomplete and left out"]
        else:
            raise InputError(f"{path}:{number}: damaged: not a line of a run's record; remove this line")
    return lines, []


def parsed_line(text: str) -> dict[str, Any] | None:
    """One line of a metrics.jsonl; None for anything else."""
    try:
        line = json.loads(text, parse_constant=lambda _: None)
        known = isinstance(line["event"], str) and all(type(line[key]) in (int, float) for key in ("epoch", "step"))
    except (ValueError, KeyError, TypeError):
        return None
    return line if known else None


def read_best(path: Path, stage: str) -> Best:
    contents = read_checkpoint(path, stage=stage)
    at = contents["position"]
    return Best(at["epoch"], at["step"], contents["version"], contents["config_sha256"])


def first_start(tensorboard: Path) -> datetime | None:
    """When the first process began, by the second in the names of TensorBoard's files: copying does not change it."""
    names = [path.name for path in tensorboard.glob("events.out.tfevents.*")]
    seconds = [int(match[1]) for name in names if (match := re.match(r"events\.out\.tfevents\.(\d+)", name))]
    return datetime.fromtimestamp(min(seconds)) if seconds else None
