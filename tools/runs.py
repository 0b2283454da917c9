"""Read what several tools need from a run: results, ground truth of the test videos, and context activities."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from common.errors import InputError
from common.files import JsonObject
from datasets.demo.__main__ import SUMMARY
from eval.charades_localize import Truth, frame_labels

STREAMS = {"fine": "Fine stream", "coarse": "Coarse-Fine"}  # title of each stage, by folder name
T = TypeVar("T")


class Metrics(BaseModel, extra="allow"):
    """The keys that every metrics.json contains: fractions or null, `AP_*` per class."""

    mAP_official: float | None  # noqa: N815 - the key in the file
    mAP_official_defined: float | None  # noqa: N815
    AP_official: list[float | None]
    AP_released: list[float | None]


class DemoSummary(BaseModel):
    """The part of a generated dataset's summary that the tools use."""

    context_classes: list[int]


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file of this type. Raises InputError if it is damaged or of another type."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = " ".join(map(str, [*first["loc"], first["msg"]]))
        raise InputError(f"{path}: damaged ({place}); create it again") from None


def read_metrics(path: Path) -> JsonObject:
    """Read a metrics.json, including keys that are not in `Metrics`."""
    return read_json(path, Metrics).model_dump()


def official_labels(truth: Mapping[str, Truth], num_classes: int) -> np.ndarray:
    """Labels (F,C) bool of all test videos at the frames of rule "official". The mean over F is the chance AP."""
    return np.concatenate([frame_labels(*known, num_classes) for known in truth.values()])


def context_classes(annotations: Path) -> list[int] | None:
    """The classes of a generated dataset that need context; None for other datasets."""
    path = annotations.with_name(SUMMARY)
    return read_json(path, DemoSummary).context_classes if path.is_file() else None
