"""What a run folder tells about itself, for `tools.report`: both training stages, finished, under way or absent.

Only what the stages write is read: `metrics.jsonl`, `metrics.json`, `config.yaml`, `predictions/`, and what the best
checkpoint says of itself. Whatever is not there yet is None or empty; what is damaged is an InputError, but for the
last line of a `metrics.jsonl` whose run was killed while writing it: that line is left out, and a note says so.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from configs.cli import load
from configs.files import ConfigError
from configs.schema import Config
from engine.checkpoint import CheckpointError, read_checkpoint
from eval.charades_localize import read_predictions

TITLES = {"fine": "Fine stream", "coarse": "Coarse-Fine"}


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
        scores: {video: (25,C)} of predictions/official.txt; -inf where it has no line.
        every_frame: predictions/dense.npz, where the run has written it.
        chosen: {video: frames that Grid Pool chose}, video frames counted from 1.
        started, updated: When the first process of the run began, and when the last line was written.
    """

    key: str
    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    config: Config | None = None
    config_text: str = ""
    metrics: dict[str, Any] | None = None
    scores: dict[str, np.ndarray] | None = None
    every_frame: Path | None = None
    chosen: dict[str, list[float]] = field(default_factory=dict)
    best: Best | None = None
    started: datetime | None = None
    updated: datetime | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return TITLES[self.key]

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
        return next((stage for stage in reversed(self.stages) if stage.scores is not None), None)


def read_run(folder: Path, config: Path | None = None) -> RunRecord:
    """Everything there is to report of the run in `folder`; `config` stands in where a stage has no config.yaml."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a run, such as runs/charades")
    present = [key for key in TITLES if (folder / key).is_dir()]
    if not present:
        inside = folder.name in TITLES and (folder / "metrics.jsonl").is_file()
        remedy = f"give the run's folder, {folder.parent}" if inside else "give the folder of a run, as runs/charades"
        raise InputError(f"{folder}: not a run: it has neither {' nor '.join(f'{key}/' for key in TITLES)}; {remedy}")
    given = read_config(config) if config else None
    return RunRecord(folder, [read_stage(folder, key, given) for key in present])


def read_stage(run: Path, key: str, given: Config | None) -> StageRecord:
    folder = run / key
    lines, notes = read_log(folder / "metrics.jsonl")
    file, metrics = folder / "config.yaml", folder / "metrics.json"
    official, dense, grid = (folder / "predictions" / name for name in ("official.txt", "dense.npz", "grid.json"))
    config = read_config(file) if file.is_file() else given
    try:
        best = read_best(folder / "checkpoints" / "best.pt", key)
    except CheckpointError as error:
        best = None
        notes.append(str(error))
    return StageRecord(
        key=key,
        train=[line for line in lines if line["event"] == "train"],
        validation=[line for line in lines if line["event"] == "validation"],
        config=config,
        config_text=file.read_text(encoding="utf-8") if file.is_file() else "",
        metrics=read_metrics(metrics) if metrics.is_file() else None,
        scores=read_predictions(official, config and config.data.num_classes) if official.is_file() else None,
        every_frame=dense if dense.is_file() else None,
        chosen=read_chosen(grid) if grid.is_file() else {},
        best=best,
        started=first_start(folder / "tensorboard"),
        updated=modified(folder / "metrics.jsonl"),
        notes=notes,
    )


# --- files ------------------------------------------------------------------------------------------------------------


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


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json, whose means are numbers or null."""
    metrics = read_object(path)
    wrong = [name for name, value in metrics.items() if "AP_" in name[:4] and not _is_mean(value)]
    if wrong:
        raise InputError(f"{path}: damaged ({wrong[0]}); evaluate again by --eval_only true")
    return metrics


def _is_mean(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(v is None or isinstance(v, int | float) for v in values)


def read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"{path}: not a JSON file ({error}); evaluate again with --eval_only true") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object, not a {type(values).__name__}; evaluate again")
    return values


def read_chosen(path: Path) -> dict[str, list[float]]:
    """grid.json: the frames that Grid Pool chose of each video."""
    chosen = read_object(path)
    for video, frames in chosen.items():
        if not (isinstance(frames, list) and all(type(frame) in (int, float) for frame in frames)):
            raise InputError(f"{path}: video {video}: expected a list of frame numbers; evaluate again")
    return chosen


def read_config(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        raise InputError(str(error)) from None  # which names the file


def read_best(path: Path, stage: str) -> Best | None:
    if not path.is_file():
        return None
    contents: Mapping[str, Any] = read_checkpoint(path, stage=stage)
    at = contents["position"]
    return Best(at["epoch"], at["step"], contents["version"], contents["config_sha256"])


# --- dates ------------------------------------------------------------------------------------------------------------


def first_start(tensorboard: Path) -> datetime | None:
    """When the first process began, by the second in the names of TensorBoard's files: copying does not change it."""
    names = [path.name for path in tensorboard.glob("events.out.tfevents.*")] if tensorboard.is_dir() else []
    seconds = [int(match[1]) for name in names if (match := re.match(r"events\.out\.tfevents\.(\d+)", name))]
    return datetime.fromtimestamp(min(seconds)) if seconds else None


def modified(path: Path) -> datetime | None:
    return datetime.fromtimestamp(path.stat().st_mtime) if path.is_file() else None
