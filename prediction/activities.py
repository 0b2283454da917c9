"""From every frame's probabilities to activities: intervals in seconds with a class and a score.

An activity is a run of frames whose probability reaches a threshold. Frame k (from 0) lasts from k/fps to (k+1)/fps.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d


class Activity(NamedTuple):
    """A class from 0, its start and end in seconds, and the highest probability between them."""

    label: int
    start: float
    end: float
    score: float


def smooth(probabilities: np.ndarray, frames: float) -> np.ndarray:
    """Means (C,L) over so many neighbouring columns of (C,L), at most all, centred; the ends count beyond the video."""
    width = round(min(frames, probabilities.shape[1]))
    return probabilities if width < 2 else uniform_filter1d(probabilities, width, axis=1, mode="nearest")


def find_activities(
    probabilities: np.ndarray, *, threshold: float, fps: float, top: int | None = None
) -> list[Activity]:
    """The runs of frames in (C,L) that reach the threshold, by start; of more than `top`, those of the best scores."""
    found = []
    for label in np.flatnonzero(probabilities.max(1) >= threshold):
        reaches = np.concatenate([[False], probabilities[label] >= threshold, [False]])
        starts, ends = np.flatnonzero(np.diff(reaches)).reshape(-1, 2).T
        for start, end in zip(starts, ends, strict=True):
            score = float(probabilities[label, start:end].max())
            found.append(Activity(int(label), float(start / fps), float(end / fps), score))
    best = sorted(found, key=lambda activity: -activity.score)[:top]
    return sorted(best, key=lambda activity: (activity.start, activity.label))
