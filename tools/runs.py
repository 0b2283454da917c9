"""What several tools read of a run: its results, the ground truth of its test videos, and its context activities."""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError
from configs.schema import Config
from datasets.demo.__main__ import SUMMARY
from datasets.kinds import KINDS
from eval.charades_localize import Truth, read_ground_truth

STREAMS = {"fine": "Fine stream", "coarse": "Coarse-Fine"}  # stages by the names of their folders
ALWAYS_THERE = ("mAP_official", "mAP_official_defined", "AP_official", "AP_released")


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json; means are fractions or null, `AP_*` lists of these over the classes."""
    metrics = read_json(path)
    wrong = [name for name, value in metrics.items() if "AP_" in name[:4] and not _is_mean(value)]
    wrong += [name for name in ALWAYS_THERE if name not in metrics]
    if wrong:
        raise InputError(f"{path}: damaged ({wrong[0]}); evaluate again by --eval_only true")
    return metrics


def _is_mean(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(v is None or isinstance(v, int | float) for v in values)


def read_chosen(path: Path) -> dict[str, list[float]]:
    """A grid.json: of each video the frames that Grid Pool chose, from 1."""
    chosen = read_json(path)
    for video, frames in chosen.items():
        if not (isinstance(frames, list) and all(type(frame) in (int, float) for frame in frames)):
            raise InputError(f"{path}: video {video}: expected a list of frame numbers; evaluate again")
    return chosen


def read_json(path: Path) -> dict[str, Any]:
    """An object of what an evaluation has written; NaN in it becomes None."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"{path}: not a JSON file ({error}); write it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object, not a {type(values).__name__}; write it again")
    return values


def read_truth(config: Config) -> dict[str, Truth]:
    """The test videos as the evaluation takes them: of the ground truth's CSV, else of the annotations."""
    data = config.data
    if data.ground_truth:
        return read_ground_truth(data.ground_truth, data.num_classes)
    tested = KINDS[data.kind].load(data.annotations, data.num_classes).subset("testing")
    return {video.id: Truth(list(video.actions), video.duration) for video in tested}


def context_classes(annotations: Path) -> list[int] | None:
    """The classes of a generated dataset that need context; None of another dataset."""
    path = annotations.with_name(SUMMARY)
    if not path.is_file():
        return None
    classes = read_json(path).get("context_classes")
    if not (isinstance(classes, list) and all(type(label) is int for label in classes)):
        raise InputError(f"{path}: damaged (context_classes); generate the dataset again")
    return classes
