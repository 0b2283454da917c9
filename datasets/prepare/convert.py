"""Convert official annotations to the JSON format of `datasets.annotations`: Charades' CSVs, MultiTHUMOS' text files.

MultiTHUMOS has a class list with lines such as `1 BaseballPitch`, and a text file per class, named after it, with a
line `video start end` (seconds) per interval. Durations are not included; they are computed from the frames.
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
TRAINING, TESTING = "video_validation_", "video_test_"  # prefixes of THUMOS14 video names


def read_multithumos(folder: Path) -> tuple[list[Video], list[str]]:
    """Read the videos of MultiTHUMOS' text files, with unknown durations (NaN), and the class names.

    Args:
        folder: Folder with the class list; the class files are in it or in `annotations/`.
    """
    names = read_class_names(folder / CLASS_LIST)
    files = folder / "annotations" if (folder / "annotations").is_dir() else folder
    actions: defaultdict[str, list[Action]] = defaultdict(list)
    for label, name in enumerate(names):
        for video, start, end in _read_intervals(files / f"{name}.txt"):
            actions[video].append(Action(label, start, end))
    if not actions:
        raise InputError(f"{files}: no intervals in any class file")
    subsets: dict[str, Subset] = {v: "training" if v.startswith(TRAINING) else "testing" for v in sorted(actions)}
    return [Video(video, subset, math.nan, tuple(actions[video])) for video, subset in subsets.items()], names


def _read_intervals(file: Path) -> Iterable[tuple[str, float, float]]:
    """Parse lines `video start end`."""
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            video, *times = line.split()
            start, end = map(float, times)
        except ValueError:
            start = end = math.nan
        if not (math.isfinite(start) and math.isfinite(end)):
            raise InputError(f"{file}: line {number}: expected `video start end`, found {line!r}")
        if not video.startswith((TRAINING, TESTING)):
            raise InputError(f"{file}: line {number}: {video} does not begin with {TRAINING} or {TESTING}")
        yield video, start, end


def write_json(path: Path, videos: Iterable[Video], *, first_class: int | None = None, keep: bool = False) -> None:
    """Write the JSON format atomically, one line per video.

    Args:
        first_class: Written to each entry; needed if the dataset's own JSON numbers classes differently.
        keep: Append to an existing valid JSON without changing its bytes.
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
