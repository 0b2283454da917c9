"""What a run folder tells about itself, for `tools.report`: both training stages, finished, under way or absent.

Only what the stages write is read: `metrics.jsonl`, `metrics.json`, `config.yaml`, `predictions/`, and what the best
checkpoint says of itself. Whatever is not there yet is None or empty; what is damaged is an InputError, but for the
last line of a `metrics.jsonl` whose run was killed while writing it: that line is left out, and a note says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from common.errors import InputError
from configs.cli import load
from configs.schema import Config
from engine.checkpoint import CheckpointError, read_checkpoint
from eval.charades_localize import read_predictions
from tools.runs import STREAMS, read_json, read_metrics


class Line(BaseModel, extra="allow"):
    """What every line of a metrics.jsonl has among others."""

    event: str
    epoch: float
    step: int


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One training stage of a run.

    Attributes:
        lines: Of metrics.jsonl, in order.
        metrics: Of the best validation or the latest --eval_only.
        scores: {video: (25,C)} of predictions/official.txt, -inf where it has no line; empty without the file.
        every_frame: predictions/dense.npz, where the run has written it.
        chosen: {video: frames that Grid Pool chose}, video frames counted from 1.
        best: What `best.pt` says of itself: epochs and steps done, the code's version, its configuration's checksum.
        started, updated: When the first process of the run began, and when the last line was written.
    """

    key: str
    lines: list[dict[str, Any]]
    config: Config | None
    config_text: str
    metrics: dict[str, Any] | None
    scores: dict[str, np.ndarray]
    every_frame: Path | None
    chosen: dict[str, list[float]]
    best: dict[str, Any] | None
    started: datetime | None
    updated: datetime | None
    notes: list[str]

    @property
    def title(self) -> str:
        return STREAMS[self.key]

    @property
    def status(self) -> str:
        """How far training is, in a few words."""
        if not self.lines:
            return "evaluated only" if self.metrics else "no epoch finished yet"
        epoch, step = self.lines[-1]["epoch"], self.lines[-1]["step"]
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
    def scored(self) -> StageRecord | None:
        """The last stage with predictions."""
        return next((stage for stage in reversed(self.stages) if stage.scores), None)


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
    begun = [int(path.name.split(".")[3]) for path in folder.glob("tensorboard/events.out.tfevents.*")]  # in seconds
    return StageRecord(
        key=key,
        lines=lines,
        config=config,
        config_text=if_there(folder / "config.yaml", lambda path: path.read_text(encoding="utf-8")) or "",
        metrics=if_there(folder / "metrics.json", read_metrics),
        scores=if_there(predictions / "official.txt", lambda path: read_predictions(path, num_classes)) or {},
        every_frame=dense if dense.is_file() else None,
        chosen=if_there(predictions / "grid.json", lambda path: read_json(path, dict[str, list[float]])) or {},
        best=best,
        started=datetime.fromtimestamp(min(begun)) if begun else None,
        updated=if_there(log, lambda path: datetime.fromtimestamp(path.stat().st_mtime)),
        notes=notes,
    )


# --- files ------------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def if_there(path: Path, read: Callable[[Path], T]) -> T | None:
    """What the file holds; None without the file."""
    return read(path) if path.is_file() else None


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a metrics.jsonl, none without the file, and a note where its last one is left out."""
    texts = path.read_bytes().splitlines() if path.is_file() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(Line.model_validate_json(text).model_dump())
        except ValidationError:
            if number < len(texts):
                raise InputError(f"{path}:{number}: damaged: not a line of a run's record; remove this line") from None
            return lines, [f"{path.name}: its last line, number {number}, is incomplete and left out"]
    return lines, []


def read_best(path: Path, stage: str) -> dict[str, Any]:
    contents = read_checkpoint(path, stage=stage)
    about = {name: contents["position"][name] for name in ("epoch", "step")}
    return about | {"version": contents["version"], "config_sha256": contents["config_sha256"][:12]}
