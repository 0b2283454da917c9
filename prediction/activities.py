"""Convert per-frame probabilities to activities (intervals in seconds with class and score), and write them to files.

An activity is a run of frames whose probability reaches a threshold. Frame k (from 0) lasts from k/fps to (k+1)/fps.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

from common.files import JsonObject


class Activity(NamedTuple):
    """Class (from 0), start and end in seconds, and the maximum probability in between."""

    label: int
    start: float
    end: float
    score: float


def smooth(probabilities: np.ndarray, frames: float) -> np.ndarray:
    """Average (C,L) over a centred window of `frames` columns, at most L; the end columns are repeated as padding."""
    width = round(min(frames, probabilities.shape[1]))
    return probabilities if width < 2 else uniform_filter1d(probabilities, width, axis=1, mode="nearest")


def find_activities(
    probabilities: np.ndarray, *, threshold: float, fps: float, top: int | None = None
) -> list[Activity]:
    """Find the runs of frames in (C,L) that reach the threshold, sorted by start; keep the `top` highest scores."""
    found = []
    for label in np.flatnonzero(probabilities.max(1) >= threshold):
        reaches = np.concatenate([[False], probabilities[label] >= threshold, [False]])
        starts, ends = np.flatnonzero(np.diff(reaches)).reshape(-1, 2).T
        for start, end in zip(starts, ends, strict=True):
            score = float(probabilities[label, start:end].max())
            found.append(Activity(int(label), float(start / fps), float(end / fps), score))
    best = sorted(found, key=lambda activity: -activity.score)[:top]
    return sorted(best, key=lambda activity: (activity.start, activity.label))


def write_csv(path: Path, probabilities: np.ndarray, names: Sequence[str], *, fps: float) -> None:
    """Write one line per frame: number (from 1), time in seconds, and the probability of each class (C,L)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["frame", "seconds", *names])
        lines.writerows([k + 1, f"{k / fps:.3f}", *(f"{p:.4g}" for p in x)] for k, x in enumerate(probabilities.T))


def write_json(path: Path, about: JsonObject, activities: Sequence[Activity], names: Sequence[str]) -> None:
    """Write the metadata and activities of a video with class names; seconds and scores have four decimals."""
    listed = [
        {"class": label, "name": names[label], "start": round(start, 4), "end": round(end, 4), "score": round(score, 4)}
        for label, start, end, score in activities
    ]
    text = json.dumps({**about, "activities": listed}, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
