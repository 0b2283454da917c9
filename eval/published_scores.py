"""The localization scores that the published code writes, such as the repository's localize_corr_v1.csv.

A row is `id,position,scores`, with C scores in one field, separated by single spaces. Frame i of a video's 25, counted
from 0, has position 1 + i * duration / 25, so the durations of the annotations are needed to read the file. The form is
taken from the code that wrote the file; the file itself was not at hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from eval.submission import FRAMES_PER_VIDEO, numbered_lines

TOLERANCE = 0.01  # how far a position may be from its frame's, in steps of duration / 25


class Row(NamedTuple):
    """The scores of one frame, as they are written."""

    line: int
    video: str
    frame: int  # 1..25
    scores: list[str]


def is_published(path: str | Path) -> bool:
    """Whether a file of scores has this form, with commas, rather than that of a submission."""
    return any(b"," in line for _, (_, line) in zip(range(1), numbered_lines(path), strict=False))


def position(frame: int, duration: float) -> float:
    """Where the published code puts a video's frame 1..25."""
    return 1 + (frame - 1) * duration / FRAMES_PER_VIDEO


def published_rows(path: str | Path, durations: Mapping[str, float]) -> tuple[list[Row], list[str]]:
    """The rows of the videos whose duration is known, one a video and frame, and the ids of the other videos.

    Args:
        durations: {video id: seconds} of the annotations.

    Raises:
        InputError: for a malformed row, a position that is no frame's, a frame that occurs twice, rows with unequal
            numbers of scores, and a file without any of these videos.
    """
    rows: list[Row] = []
    unknown: dict[str, None] = {}
    lines: dict[tuple[str, int], int] = {}
    for number, line in numbered_lines(path):
        video, place, scores = _fields(f"{path}:{number}", line)
        if video not in durations:
            unknown[video] = None
            continue
        row = Row(number, video, _frame(f"{path}:{number}", video, place, durations[video]), scores)
        earlier = lines.setdefault((video, row.frame), number)
        if earlier != number:
            raise InputError(
                f"{path}:{number}: frame {row.frame} of video {video} already has scores in line {earlier}"
            )
        if rows and len(scores) != len(rows[0].scores):
            raise InputError(
                f"{path}:{number}: {len(scores)} scores where line {rows[0].line} has {len(rows[0].scores)}"
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: none of its videos is in the ground truth; score it against its own annotations")
    return rows, list(unknown)


def read_published(
    path: str | Path, durations: Mapping[str, float], num_classes: int | None = None
) -> dict[str, np.ndarray]:
    """{video id: scores (25,C) float64}; a frame without a row, and every frame of an unknown video, is -inf.

    Raises:
        InputError: as `published_rows`; also for another number of classes than `num_classes`.
    """
    rows, unknown = published_rows(path, durations)
    found = len(rows[0].scores)
    if num_classes not in (None, found):
        raise InputError(f"{path}:{rows[0].line}: {found} scores where {num_classes} are expected")
    videos = dict.fromkeys([row.video for row in rows] + unknown)
    predictions = {video: np.full((FRAMES_PER_VIDEO, found), -np.inf) for video in videos}
    for row in rows:
        predictions[row.video][row.frame - 1] = _numbers(f"{path}:{row.line}", row.scores)
    return predictions


def _fields(where: str, line: bytes) -> tuple[str, str, list[str]]:
    try:
        video, place, scores = line.decode().rstrip("\r\n").split(",")
    except ValueError:  # also what is not UTF-8
        raise InputError(f"{where}: not of the form `id,position,score score ...`") from None
    return video, place, scores.split()


def _frame(where: str, video: str, place: str, duration: float) -> int:
    """The frame 1..25 at a position."""
    try:
        steps = (float(place) - 1) * FRAMES_PER_VIDEO / duration
    except (ValueError, ZeroDivisionError):
        steps = np.nan
    if not (np.isfinite(steps) and abs(steps - round(steps)) <= TOLERANCE and 0 <= round(steps) < FRAMES_PER_VIDEO):
        raise InputError(
            f"{where}: position {place} of video {video} is none of its {FRAMES_PER_VIDEO} frames, which are at "
            f"1 + i * {duration:g} / {FRAMES_PER_VIDEO}; give the annotations that the scores were made with"
        )
    return round(steps) + 1


def _numbers(where: str, words: list[str]) -> np.ndarray:
    try:
        scores = np.array(words, dtype=np.float64)
    except ValueError:
        raise InputError(f"{where}: a score is not a number") from None
    if np.isnan(scores).any():
        raise InputError(f"{where}: a score is NaN")
    return scores
