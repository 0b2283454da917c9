"""Reading the localization scores written by the published code, such as the repository's localize_corr_v1.csv.

A row is `id,position,scores`, with C scores in one field, separated by single spaces. Frame i of 0..24 has position
1 + i * duration / 25, so the annotated durations are needed to read the file. The format is taken from the code that
writes the file; the file itself was not available.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import InputError
from eval.submission import FRAMES_PER_VIDEO, Line, numbered_lines, predictions_of

TOLERANCE = 0.01  # of positions, in steps of duration / 25


def is_published(path: str | Path) -> bool:
    """Whether a file of scores has this format (with commas), not that of a submission."""
    _, first = next(numbered_lines(path), (0, b""))
    return b"," in first


def position(frame: int, duration: float) -> float:
    """The position of frame 1..25 of a video in the published code."""
    return 1 + (frame - 1) * duration / FRAMES_PER_VIDEO


def published_lines(path: str | Path, durations: Mapping[str, float]) -> tuple[list[Line], list[str]]:
    """The lines of videos with known durations, and the ids of the other videos.

    Args:
        durations: {video id: seconds} from the annotations.

    Raises:
        InputError: for a malformed line, an invalid position, or a file without any of these videos.
    """
    lines: list[Line] = []
    unknown: dict[str, None] = {}
    for number, line in numbered_lines(path):
        try:
            video, place, scores = line.decode().rstrip("\r\n").split(",")
        except ValueError:  # also raised for invalid UTF-8
            raise InputError(f"{path}:{number}: not of the form `id,position,score score ...`") from None
        if video in durations:
            frame = _frame(f"{path}:{number}", video, place, durations[video])
            lines.append(Line(number, video, frame, " ".join(scores.split())))
        else:
            unknown[video] = None
    if not lines:
        raise InputError(f"{path}: none of its videos is in the ground truth; use the annotations of these videos")
    return lines, list(unknown)


def read_published(
    path: str | Path, durations: Mapping[str, float], num_classes: int | None = None
) -> dict[str, np.ndarray]:
    """Read {video id: scores (25,C) float64}; frames without a line and all frames of unknown videos are -inf.

    Raises:
        InputError: see `published_lines` and `eval.submission.predictions_of`.
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
            f"{where}: position {place} of video {video} matches none of its {FRAMES_PER_VIDEO} frames, which are at "
            f"1 + i * {duration:g} / {FRAMES_PER_VIDEO}; use the annotations that the scores were computed with"
        )
    return frame
