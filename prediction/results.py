"""The files that a video's prediction becomes: NAME.csv, NAME.png and NAME.json."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_text
from prediction.activities import Activity
from prediction.timeline import timeline_figure


def write_results(
    folder: Path,
    name: str,
    about: Mapping[str, Any],
    *,
    title: str,
    probabilities: np.ndarray,
    activities: Sequence[Activity],
    chosen: Sequence[float],
    classes: Sequence[str],
    fps: float,
) -> list[Path]:
    """Write all three; returns their paths.

    Args:
        about: What the JSON file says of the video besides its activities.
        title: Of the picture.
        probabilities: (C,L) of every frame; column k lasts from k/fps to (k+1)/fps seconds.
        chosen: Video frames, from 1, that Grid Pool chose.
        classes: (C,) names.
    """
    table, picture, summary = (folder / f"{name}{suffix}" for suffix in (".csv", ".png", ".json"))
    write_csv(table, probabilities, classes, fps=fps)
    figure = timeline_figure(
        title, probabilities=probabilities, fps=fps, activities=activities, names=classes, chosen=chosen
    )
    figure.savefig(picture, dpi=120)
    write_json(summary, about, activities, classes)
    return [table, picture, summary]


def write_csv(path: Path, probabilities: np.ndarray, names: Sequence[str], *, fps: float) -> None:
    """A line for each frame: its number from 1, its time in seconds, and the probability of each class (C,L)."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["frame", "seconds", *names])
    for k, column in enumerate(probabilities.T):
        lines.writerow([k + 1, f"{k / fps:.3f}", *(f"{p:.4g}" for p in column)])
    write_text(path, text.getvalue())


def write_json(path: Path, about: Mapping[str, Any], activities: Sequence[Activity], names: Sequence[str]) -> None:
    """What is known of a video, and its activities with class names; seconds and scores to four places."""
    listed = [
        {"class": label, "name": names[label], "start": round(start, 4), "end": round(end, 4), "score": round(score, 4)}
        for label, start, end, score in activities
    ]
    text = json.dumps({**about, "activities": listed}, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def what_was_found(probabilities: np.ndarray, activities: Sequence, classes: Sequence[str], threshold: float) -> str:
    """How much was found; of nothing, what came nearest."""
    if activities:
        return f"{len(activities)} activities"
    label = int(probabilities.max(1).argmax())
    return (
        f"nothing reaches {threshold:g}; the nearest is {classes[label]} with {probabilities[label].max():.2f} "
        "(lower --threshold)"
    )
