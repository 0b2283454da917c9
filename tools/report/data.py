"""Read a run folder for `tools.report`: both training stages, finished, in progress or absent.

Only files written by the stages are read: `metrics.jsonl`, `metrics.json`, `config.yaml`, `predictions/`, and metadata
of the best checkpoint. Missing files result in None or empty values, damaged files in an InputError. One exception: an
incomplete last line of `metrics.jsonl`, from a run that was killed while writing it, is skipped with a note.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from common.errors import InputError
from common.files import JsonObject
from configs.cli import load
from configs.schema import Config
from engine.checkpoint import CheckpointError, read_checkpoint
from eval.charades_localize import read_predictions
from tools.runs import STREAMS, read_json, read_metrics


class Line(BaseModel, extra="allow"):
    """The keys that every line of a metrics.jsonl contains."""

    event: str
    epoch: float
    step: int


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One training stage of a run.

    Attributes:
        lines: Lines of metrics.jsonl, in order.
        metrics: Metrics of the best validation or the latest --eval_only.
        scores: {video: (25,C)} from predictions/official.txt, -inf for missing lines; empty without the file.
        every_frame: Path of predictions/dense.npz, if the run has written it.
        chosen: {video: frames selected by Grid Pool}, as video frames counted from 1.
        best: Metadata of `best.pt`: epochs and steps done, version of the code, checksum of the configuration.
        started, updated: When the first process of the run started, and when the last line was written.
    """

    key: str
    lines: list[JsonObject]
    config: Config | None
    config_text: str
    metrics: JsonObject | None
    scores: dict[str, np.ndarray]
    every_frame: Path | None
    chosen: dict[str, list[float]]
    best: JsonObject | None
    started: datetime | None
    updated: datetime | None
    notes: list[str]

    @property
    def title(self) -> str:
        return STREAMS[self.key]

    @property
    def status(self) -> str:
        """A short description of the training progress."""
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
    """A run with its stages in order, at least one."""

    folder: Path
    stages: list[StageRecord]

    @property
    def config(self) -> Config | None:
        """The configuration of the last stage that has one; None for a run that was only evaluated."""
        return next((stage.config for stage in reversed(self.stages) if stage.config), None)

    @property
    def scored(self) -> StageRecord | None:
        """The last stage with predictions."""
        return next((stage for stage in reversed(self.stages) if stage.scores), None)


def read_run(folder: Path, config: Path | None = None) -> RunRecord:
    """Read the run in `folder`. `config` is used for stages without a config.yaml."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a run folder, such as runs/charades")
    present = [key for key in STREAMS if (folder / key).is_dir()]
    if not present:
        inside = folder.name in STREAMS and (folder / "metrics.jsonl").is_file()
        remedy = f"give the run's folder, {folder.parent}" if inside else "give a run folder, such as runs/charades"
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
    """The result of `read`; None if the file does not exist."""
    return read(path) if path.is_file() else None


def read_log(path: Path) -> tuple[list[JsonObject], list[str]]:
    """The lines of a metrics.jsonl, if it exists, and a note if an incomplete last line was skipped."""
    texts = path.read_bytes().splitlines() if path.is_file() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(Line.model_validate_json(text).model_dump())
        except ValidationError:
            if number < len(texts):
                raise InputError(f"{path}:{number}: damaged line; remove it") from None
            return lines, [f"{path.name}: its last line (line {number}) is incomplete and was skipped"]
    return lines, []


def read_best(path: Path, stage: str) -> JsonObject:
    contents = read_checkpoint(path, stage=stage)
    about = {name: contents["position"][name] for name in ("epoch", "step")}
    return about | {"version": contents["version"], "config_sha256": contents["config_sha256"][:12]}
