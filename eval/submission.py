"""Submission files of the Charades localization task: one line `id frame score score ...` per video and frame.

Frames are numbered 1..25. As in the official evaluation, a file with frames from 0 is shifted by one, and one extra
score (the 158th for Charades' 157 classes) is ignored. Missing lines score -inf.
"""

import codecs
import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import written_whole

FRAMES_PER_VIDEO = 25
CHARADES_CLASSES = 157


class Line(NamedTuple):
    """The scores of one video frame, as in the file."""

    number: int  # line number, from 1
    video: str
    frame: int  # 1..25
    scores: str  # separated by single spaces


def read_predictions(path: str | Path, num_classes: int | None = None) -> dict[str, np.ndarray]:
    """Read {video id: scores (25, C) float64} from a submission, plain or gzipped; missing frames are -inf.

    By default, the first line defines the number of classes; 158 scores mean 157 classes of Charades and one to ignore.
    Raises InputError with the line number unless every line is complete, numeric and unique per video and frame.
    """
    return predictions_of(path, submission_lines(path, num_classes), num_classes)


def submission_lines(path: str | Path, num_classes: int | None = None) -> list[Line]:
    """Read the lines of a submission (at least one), with frames from 1 and without an extra score."""
    lines: list[Line] = []
    for number, text in numbered_lines(path):
        try:
            video, frame, *scores = text.split()
            if num_classes is None:
                num_classes = CHARADES_CLASSES if len(scores) == CHARADES_CLASSES + 1 else len(scores)
            if len(scores) == num_classes + 1:
                scores.pop()
            lines.append(Line(number, video.decode(), int(frame), b" ".join(scores).decode()))
        except ValueError as error:  # also raised for invalid UTF-8
            raise InputError(f"{path}:{number}: not of the form `id frame score score ...` ({error})") from None
    if not lines:
        raise InputError(f"{path}: no predictions; each line is `id frame score score ...`")
    first = 0 if any(line.frame == 0 for line in lines) else 1
    counted = range(first, first + FRAMES_PER_VIDEO)
    for line in lines:
        if line.frame not in counted:
            said = f"{first}..{counted[-1]} (the file numbers frames from {first})"
            raise InputError(f"{path}:{line.number}: frame {line.frame} of video {line.video} is outside {said}")
    return [line._replace(frame=line.frame + 1 - first) for line in lines]


def predictions_of(path: str | Path, lines: Sequence[Line], num_classes: int | None = None) -> dict[str, np.ndarray]:
    """Convert the lines of a file (at least one) to {video id: scores (25, C) float64}; missing frames are -inf.

    Raises InputError with the line number for duplicate frames, invalid numbers, and lines whose number of scores
    differs from `num_classes` (by default, from the first line).
    """
    C = num_classes or len(lines[0].scores.split())
    predictions: dict[str, np.ndarray] = defaultdict(lambda: np.full((FRAMES_PER_VIDEO, C), -np.inf))
    first_seen: dict[tuple[str, int], int] = {}
    for line in lines:
        where = f"{path}:{line.number}"
        earlier = first_seen.setdefault((line.video, line.frame), line.number)
        if earlier != line.number:
            raise InputError(f"{where}: frame {line.frame} of video {line.video} already has scores in line {earlier}")
        try:
            scores = np.array([float(word) for word in line.scores.split()])
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        if len(scores) != C or C == 0:
            raise InputError(f"{where}: {len(scores)} scores, expected {C or 'at least 1'}")
        if np.isnan(scores).any():
            raise InputError(f"{where}: NaN score for video {line.video}, frame {line.frame}")
        predictions[line.video][line.frame - 1] = scores
    return dict(predictions)


def write_predictions(path: str | Path, predictions: Mapping[str, np.ndarray]) -> None:
    """Write {video id: scores (F, C)}, F <= 25, as frames 1..F of a submission, in order, as `%.6g`, atomically."""
    with written_whole(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        for video, scores in predictions.items():
            if len(video.split()) != 1:
                raise InputError(f"video {video!r}: video ids in a submission must not contain spaces")
            if len(scores) > FRAMES_PER_VIDEO or np.isnan(scores).any():
                raise ValueError(f"video {video}: a submission allows at most {FRAMES_PER_VIDEO} frames and no NaN")
            form = " ".join(["%.6g"] * scores.shape[1])
            for frame, row in enumerate(scores.tolist(), start=1):
                file.write(f"{video} {frame} {form % tuple(row)}\n")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) for every non-blank line; gzip is detected by its first two bytes."""
    with Path(path).open("rb") as raw:
        file = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        try:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not line.isspace():
                    yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path}: not a complete gzip file ({error})") from None
