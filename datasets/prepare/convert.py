"""Official annotations in the JSON form of `datasets.annotations`: Charades' CSVs, MultiTHUMOS' text files.

MultiTHUMOS comes as a class list (`1 BaseballPitch`, a line each) and a text file for each class, named after it, with
a line `video start end` (seconds) for each interval. It does not say how long the videos are: their frames do.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError
from common.files import write_text
from datasets.annotations import Action, Subset, Video, read_class_names

CLASS_LIST = "class_list.txt"
TRAINING, TESTING = "video_validation_", "video_test_"  # how THUMOS14's videos are called


def read_multithumos(folder: Path) -> tuple[list[Video], list[str]]:
    """The videos of MultiTHUMOS' text files, their durations not known (NaN), and the classes' names.

    Args:
        folder: With the class list; the classes' files are beside it or in `annotations/`.
    """
    names = read_class_names(folder / CLASS_LIST)
    files = folder / "annotations" if (folder / "annotations").is_dir() else folder
    actions: defaultdict[str, list[Action]] = defaultdict(list)
    for label, name in enumerate(names):
        for video, start, end in _read_intervals(files / f"{name}.txt"):
            actions[video].append(Action(label, start, end))
    if not actions:
        raise InputError(f"{files}: no interval in any class's file")
    subsets: dict[str, Subset] = {v: "training" if v.startswith(TRAINING) else "testing" for v in sorted(actions)}
    return [Video(video, subset, math.nan, tuple(actions[video])) for video, subset in subsets.items()], names


def _read_intervals(file: Path) -> Iterable[tuple[str, float, float]]:
    """Lines `video start end`."""
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            video, *times = line.split()
            start, end = map(float, times)
        except ValueError:
            start = end = math.nan
        if not (math.isfinite(start) and math.isfinite(end)):
            raise InputError(f"{file}: line {number}: {line!r} is not of the form `video start end`")
        if not video.startswith((TRAINING, TESTING)):
            raise InputError(f"{file}: line {number}: {video} is not called {TRAINING} or {TESTING}..., as THUMOS14's")
        yield video, start, end


def write_json(path: Path, videos: Iterable[Video], *, first_class: int | None = None, keep: bool = False) -> None:
    """The JSON form, a line for each video, whole or not at all.

    Args:
        first_class: Said in each entry: needed where a dataset's own JSON numbers its classes otherwise.
        keep: Add the videos at the end of a valid JSON that is there, which keeps every byte.
    """
    text = path.read_bytes().decode("utf-8") if keep and path.exists() else "{}"
    before = text.rstrip().removesuffix("}").rstrip()
    comma = "" if before.endswith("{") else ","
    count_from = {} if first_class is None else {"first_class": first_class}
    lines = []
    for video in videos:
        entry = {"subset": video.subset, "duration": video.duration, "actions": video.actions, **count_from}
        lines.append(f"{json.dumps(video.id)}: {json.dumps(entry)}")
    write_text(path, f"{before}{comma}\n" + ",\n".join(lines) + "\n}\n")
