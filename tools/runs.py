"""What several tools read of a run: its results, the ground truth of its test videos, and its context activities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from common.errors import InputError
from datasets.demo.__main__ import SUMMARY
from eval.charades_localize import Truth, frame_labels

STREAMS = {"fine": "Fine stream", "coarse": "Coarse-Fine"}  # stages by the names of their folders
T = TypeVar("T")


class Metrics(BaseModel, extra="allow"):
    """What every metrics.json has among others: fractions or null, `AP_*` by class."""

    mAP_official: float | None  # noqa: N815 - the name in the file
    mAP_official_defined: float | None  # noqa: N815
    AP_official: list[float | None]
    AP_released: list[float | None]


class DemoSummary(BaseModel):
    """What the tools take of a generated dataset's summary."""

    context_classes: list[int]


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file of this kind; InputError where it is damaged or of another one."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = " ".join(map(str, [*first["loc"], first["msg"]]))
        raise InputError(f"{path}: damaged ({place}); write it again") from None


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json, with what it has besides `Metrics`."""
    return read_json(path, Metrics).model_dump()


def official_labels(truth: Mapping[str, Truth], num_classes: int) -> np.ndarray:
    """Labels (F,C) bool of all test videos at the frames of rule "official"; means over F are the AP of chance."""
    return np.concatenate([frame_labels(*known, num_classes) for known in truth.values()])


def context_classes(annotations: Path) -> list[int] | None:
    """The classes of a generated dataset that need context; None of another dataset."""
    path = annotations.with_name(SUMMARY)
    return read_json(path, DemoSummary).context_classes if path.is_file() else None
