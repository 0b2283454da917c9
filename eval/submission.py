"""The submission file of the Charades localization task: one line `id frame score score ...` per video and frame.

Frames are 1..25. As in the official evaluation, a file that numbers them from 0 is shifted by one, and one score
too many (a 158th for Charades' 157 classes) is ignored. A line that is absent scores -inf.
"""

import codecs
import gzip
import zlib
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import written_whole

FRAMES_PER_VIDEO = 25
CHARADES_CLASSES = 157


def read_predictions(path: str | Path, num_classes: int | None = None) -> dict[str, np.ndarray]:
    """{video id: scores (25, C) float64} of a submission, plain or gzipped; frames without a line are -inf.

    Without `num_classes` the first line decides, 158 scores meaning Charades' 157 and one to ignore.
    Raises InputError, naming the line, for anything but complete lines of numbers, one per video and frame.
    """
    keys, scores = _parse(path, num_classes)
    shift = int(any(frame == 0 for _, frame, _ in keys))
    predictions: dict[str, np.ndarray] = {}
    first_seen: dict[tuple[str, int], int] = {}
    for (video, number, line), row in zip(keys, scores, strict=True):
        frame = number + shift
        if not 1 <= frame <= FRAMES_PER_VIDEO:
            counted = f"0..{FRAMES_PER_VIDEO - 1}, since the file counts from 0" if shift else f"1..{FRAMES_PER_VIDEO}"
            raise InputError(f"{path}:{line}: frame {number} of video {video} is outside {counted}")
        if first_seen.setdefault((video, frame), line) != line:
            earlier = first_seen[video, frame]
            raise InputError(f"{path}:{line}: frame {number} of video {video} already has scores in line {earlier}")
        if video not in predictions:
            predictions[video] = np.full((FRAMES_PER_VIDEO, scores.shape[1]), -np.inf)
        predictions[video][frame - 1] = row
    return predictions


def write_predictions(path: str | Path, predictions: Mapping[str, np.ndarray]) -> None:
    """Write {video id: scores (F, C)}, F <= 25, as frames 1..F of a submission in the mapping's order, `%.6g`.

    The file appears under its name only when complete.
    """
    with written_whole(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(_lines(predictions))


def _lines(predictions: Mapping[str, np.ndarray]) -> Iterable[str]:
    for video, scores in predictions.items():
        if len(video.split()) != 1:
            raise InputError(f"video {video!r}: an id with a space does not fit the lines of a submission")
        if len(scores) > FRAMES_PER_VIDEO or np.isnan(scores).any():
            raise ValueError(f"video {video}: a submission holds at most {FRAMES_PER_VIDEO} frames and no NaN")
        form = " ".join(["%.6g"] * scores.shape[1])
        for frame, row in enumerate(scores.tolist(), start=1):
            yield f"{video} {frame} {form % tuple(row)}\n"


def _parse(path: str | Path, num_classes: int | None) -> tuple[list[tuple[str, int, int]], np.ndarray]:
    """[(video, frame as written, line number)] and scores (lines, C) of a submission with at least one line."""
    keys: list[tuple[str, int, int]] = []
    values = array("d")
    for number, line in numbered_lines(path):
        name, *numbers = line.split()
        found = len(numbers) - 1
        if found < 1:
            raise InputError(f"{path}:{number}: no scores; each line is `id frame score score ...`")
        if num_classes is None:
            num_classes = CHARADES_CLASSES if found == CHARADES_CLASSES + 1 else found
        if found not in (num_classes, num_classes + 1):
            raise InputError(f"{path}:{number}: {found} scores where {num_classes} are expected")
        try:
            keys.append((name.decode(), int(numbers[0]), number))
            values.extend(map(float, numbers[1 : num_classes + 1]))
        except ValueError:
            raise InputError(f"{path}:{number}: {_not_a_number(name, numbers)}") from None
    if not keys:
        raise InputError(f"{path}: no predictions; each line is `id frame score score ...`")
    scores = np.frombuffer(values).reshape(len(keys), -1)
    broken = np.isnan(scores).any(axis=1)
    if broken.any():
        video, frame, number = keys[int(np.argmax(broken))]
        raise InputError(f"{path}:{number}: a score of video {video}, frame {frame}, is NaN")
    return keys, scores


def numbered_lines(path: str | Path) -> Iterable[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank; gzip is known by its first two bytes."""
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


def _not_a_number(name: bytes, numbers: list[bytes]) -> str:
    """What of a line could not be read: its id, its frame number or its first bad score."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return f"the video id {name!r} is not UTF-8 text"
    if not numbers[0].isdigit():
        return f"the frame {_shown(numbers[0])} is not a whole number"
    for column, word in enumerate(numbers[1:], start=1):
        try:
            float(word)
        except ValueError:
            return f"score {column}, {_shown(word)}, is not a number"
    return "not a line of numbers"


def _shown(word: bytes) -> str:
    return repr(word[:20].decode(errors="replace"))
