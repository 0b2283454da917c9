"""The localization scores that the published code writes, such as the repository's localize_corr_v1.csv.

A row is `id,position,scores`, with C scores in one field, separated by single spaces. Frame i of a video's 25, counted
from 0, has position 1 + i * duration / 25, so the durations of the annotations are needed to read the file. The form is
taken from the code that wrote the file; the file itself was not at hand.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import InputError
from eval.submission import FRAMES_PER_VIDEO, Line, numbered_lines, predictions_of

TOLERANCE = 0.01  # how far a position may be from its frame's, in steps of duration / 25


def is_published(path: str | Path) -> bool:
    """Whether a file of scores has this form, with commas, rather than that of a submission."""
    _, first = next(numbered_lines(path), (0, b""))
    return b"," in first


def position(frame: int, duration: float) -> float:
    """Where the published code puts a video's frame 1..25."""
    return 1 + (frame - 1) * duration / FRAMES_PER_VIDEO


def published_lines(path: str | Path, durations: Mapping[str, float]) -> tuple[list[Line], list[str]]:
    """The lines of the videos whose duration is known, and the ids of the other videos.

    Args:
        durations: {video id: seconds} of the annotations.

    Raises:
        InputError: for a malformed line, a position that is no frame's, and a file without any of these videos.
    """
    lines: list[Line] = []
    unknown: dict[str, None] = {}
    for number, line in numbered_lines(path):
        try:
            video, place, scores = line.decode().rstrip("\r\n").split(",")
        except ValueError:  # also what is not UTF-8
            raise InputError(f"{path}:{number}: not of the form `id,position,score score ...`") from None
        if video in durations:
            frame = _frame(f"{path}:{number}", video, place, durations[video])
            lines.append(Line(number, video, frame, " ".join(scores.split())))
        else:
            unknown[video] = None
    if not lines:
        raise InputError(f"{path}: none of its videos is in the ground truth; score it against its own annotations")
    return lines, list(unknown)


def read_published(
    path: str | Path, durations: Mapping[str, float], num_classes: int | None = None
) -> dict[str, np.ndarray]:
    """{video id: scores (25,C) float64}; a frame without a line, and every frame of an unknown video, is -inf.

    Raises:
        InputError: as `published_lines` and `eval.submission.predictions_of`.
    """
    lines, unknown = published_lines(path, durations)
    predictions = predictions_of(path, lines, num_classes)
    absent = np.full_like(next(iter(predictions.values())), -np.inf)
    return predictions | dict.fromkeys(unknown, absent)


def _frame(where: str, video: str, place: str, duration: float) -> int:
    """The frame 1..25 at a position."""
    try:
        steps = (float(place) - 1) * FRAMES_PER_VIDEO / duration
    except (ValueError, ZeroDivisionError):
        steps = np.nan
    frame = next((i for i in range(1, FRAMES_PER_VIDEO + 1) if abs(steps - (i - 1)) <= TOLERANCE), None)
    if frame is None:
        raise InputError(
            f"{where}: position {place} of video {video} is none of its {FRAMES_PER_VIDEO} frames, which are at "
            f"1 + i * {duration:g} / {FRAMES_PER_VIDEO}; give the annotations that the scores were made with"
        )
    return frame
