"""Read and validate the annotations of a dataset (section 4 of the paper, "Charades").

Two formats are supported: the JSON format used by public data loaders,

    {video id: {"subset": "training"|"testing", "duration": seconds, "actions": [[class, start, end], ...]}}

and a folder with both official files, Charades_v1_train.csv and Charades_v1_test.csv. Mistakes that would invalidate an
experiment raise an `InputError` with the file and the video. Irregularities of the real annotations (intervals that end
after the video, or before they start) are counted and reported, but kept. Errors use the option names of the training
scripts; other commands translate them (`common.errors.options_called`).
"""

import json
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from common.errors import InputError, one_line
from eval.charades_localize import Truth, read_ground_truth

Subset = Literal["training", "testing"]
OFFICIAL_FILES: dict[Subset, str] = {"training": "Charades_v1_train.csv", "testing": "Charades_v1_test.csv"}
BOTH_FILES = " and ".join(OFFICIAL_FILES.values())
NUMBERED_NAME = re.compile(r"c?(\d+)\s+(.+)")  # a class in Charades_v1_classes.txt


def _not_text_or_boolean(value: object) -> object:
    """Reject `true` and "1", which pydantic would read as class 1; 1.0 is a valid JSON integer."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("class", "Input should be an integer (class names belong in a text file)")
    return value


Class = Annotated[int, BeforeValidator(_not_text_or_boolean)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Action(NamedTuple):
    """One interval of an activity: class (from 0), start and end in seconds."""

    label: int
    start: float
    end: float


class Video(NamedTuple):
    """An annotated video: duration in seconds, actions in file order."""

    id: str
    subset: Subset
    duration: float
    actions: tuple[Action, ...]


class VideoEntry(BaseModel):
    """A video's entry in the JSON format, with classes numbered as in the file."""

    subset: Subset = Field(description="whether the video is used for training or testing")
    duration: Annotated[Seconds, Field(gt=0)] = Field(description="length of the video in seconds")
    actions: list[tuple[Class, Seconds, Seconds]] = Field(
        description="activities as [class, start, end], in any order; classes are integers, times are in seconds from "
        "the start of the video; activities may overlap"
    )
    first_class: Annotated[Class, Field(ge=0)] | None = Field(
        default=None, description="number of the first class in `actions`, if not the dataset's default (0 or 1)"
    )


@dataclass(frozen=True)
class Annotations:
    """All videos of a dataset in file order.

    Attributes:
        path: The file or folder they were read from.
        videos: Training and test videos with unique ids.
        expected: Videos per subset of the full dataset, for the report; None if unknown.
    """

    path: Path
    videos: tuple[Video, ...]
    expected: Mapping[Subset, int] | None = None

    def subset(self, name: Subset) -> list[Video]:
        """Return the training or the test videos."""
        return [video for video in self.videos if video.subset == name]

    def oddities(self) -> list[str]:
        """Count irregular actions and return one text per kind that occurs; the actions are kept."""
        pairs = [(video, action) for video in self.videos for action in video.actions]
        counts = {
            "end after their video": sum(action.end > video.duration for video, action in pairs),
            "start after their video ends": sum(action.start >= video.duration for video, action in pairs),
            "end no later than they start": sum(action.end <= action.start for _, action in pairs),
            "start before 0": sum(action.start < 0 for _, action in pairs),
            "are duplicated": sum(len(video.actions) - len(set(video.actions)) for video in self.videos),
        }
        return [f"{count} {kind}" for kind, count in counts.items() if count]

    def truth(self) -> dict[str, Truth]:
        """Return the ground truth of the test videos for the metrics, used without an official CSV."""
        return {video.id: Truth(video.actions, video.duration) for video in self.subset("testing")}

    def summary(self) -> str:
        """Summarise what was read, and how it differs from the full dataset."""
        found = {subset: len(self.subset(subset)) for subset in OFFICIAL_FILES}
        partial = ""
        if self.expected and found != self.expected:
            partial = f" (the full dataset: {self.expected['training']} and {self.expected['testing']})"
        actions = sum(len(video.actions) for video in self.videos)
        return f"{self.path}: {found['training']} training, {found['testing']} test videos{partial}, {actions} actions"

    def report(self) -> str:
        """Return one line for the console: the summary and the irregularities."""
        odd = self.oddities()
        return self.summary() + (f": {', '.join(odd)}" if odd else "")


def load_annotations(
    path: str | Path, *, num_classes: int, first_class: int = 0, expected: Mapping[Subset, int] | None = None
) -> Annotations:
    """Read and validate a dataset's annotations.

    Args:
        path: A JSON file, or a folder with both official CSVs.
        num_classes: Number of classes; a class outside the range is an error.
        first_class: Number of the first class in the file (0 in Charades, 1 in multithumos.json).
        expected: Videos per subset of the full dataset, reported if the file differs.
    """
    path = Path(path)
    if not path.exists():
        raise _refused(f"{path}: not found", f"set {{option}} to a JSON file or a folder with {BOTH_FILES}")
    records = _read_official(path) if path.is_dir() else read_table(path)
    if not records:
        raise _refused(f"{path}: contains no videos", "set {option} to the dataset's annotations")
    videos = tuple(_checked(path, video, record, num_classes, first_class) for video, record in records.items())
    return Annotations(path, videos, expected)


def read_class_names(path: str | Path | None, num_classes: int | None = None) -> list[str]:
    """Read class names from a text file with one name per line, plain or numbered as `c000 Name`.

    Numbers start at 0 or 1 and must be in order, so that no name is assigned to the wrong class.

    Args:
        path: The file; None for "class 0", "class 1" and so on.
        num_classes: Expected number of names; None accepts any.
    """
    if path is None:
        return [f"class {label}" for label in range(num_classes or 0)]
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        remedy = "{option} expects a text file with one class name per line"
        raise InputError(f"{path}: no such file", option="--data.class_names", remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason}); use one class name per line") from None
    names = _without_numbers(path, [line.strip() for line in text.splitlines() if line.strip()])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two classes are named {twice[0]!r}; use different names")
    if num_classes is not None and len(names) != num_classes:
        raise InputError(
            f"{path}: contains {len(names)} class names, expected {num_classes}",
            option="--data.num_classes",
            remedy="correct the file or {option}",
        )
    return names


def _without_numbers(path: str | Path, lines: list[str]) -> list[str]:
    """Strip the numbers if every line begins with one."""
    numbered = [match for match in map(NUMBERED_NAME.fullmatch, lines) if match]
    if not numbered or len(numbered) < len(lines):
        return lines
    for due, match in enumerate(numbered, min(int(numbered[0][1]), 1)):
        if int(match[1]) != due:
            raise InputError(f"{path}: expected class {due}, found {match[0]!r}; list the classes in order")
    return [match[2] for match in numbered]


def read_table(path: Path) -> dict[str, object]:
    """Read the JSON format as {id: unvalidated record}. Duplicate ids are an error; json would keep the last one."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: {twice[0]!r} occurs twice; remove one of the entries")
        return dict(pairs)

    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _refused(f"{path}: not a JSON file ({one_line(error)})", "set {option} to the dataset's JSON") from None
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected an object that maps video ids to annotations, not a {type(table).__name__}")
    return table


def _refused(what: str, remedy: str) -> InputError:
    """An error to be fixed by changing --data.annotations."""
    return InputError(what, option="--data.annotations", remedy=remedy)


def _read_official(folder: Path) -> dict[str, object]:
    """Read the official format, one CSV per subset, as {id: record}."""
    records: dict[str, object] = {}
    for subset, name in OFFICIAL_FILES.items():
        file = folder / name
        if not file.is_file():
            raise _refused(f"{file}: no such file", f"{{option}} expects a JSON file or a folder with {BOTH_FILES}")
        for video, (actions, length) in read_ground_truth(file).items():
            if video in records:
                raise InputError(f"{file}: video {video} is also in {OFFICIAL_FILES['training']}; remove one of them")
            records[video] = {"subset": subset, "duration": length, "actions": actions}
    return records


def _checked(path: Path, video: str, record: object, num_classes: int, first_class: int) -> Video:
    """Validate a record and convert it to a video with classes from 0."""
    if not video or video.startswith(".") or Path(video).name != video or video.split() != [video]:
        raise InputError(f"{path}: video {video!r}: a video id must be a plain file name without spaces")
    try:
        entry = VideoEntry.model_validate(record)
    except ValidationError as error:
        mistake = error.errors()[0]
        given = f"{mistake['msg']}, got {reprlib.repr(mistake['input'])}"
        parts = [f"{path}: video {video}", ".".join(map(str, mistake["loc"])), given]
        remedy = "`python -m datasets.schema` prints the format"
        raise InputError(": ".join(filter(None, parts)), remedy=remedy) from None
    first = first_class if entry.first_class is None else entry.first_class
    for label, _, _ in entry.actions:
        if not 0 <= label - first < num_classes:
            raise InputError(
                f"{path}: video {video}: class {label} is outside {first}..{first + num_classes - 1}",
                option="--data.num_classes",
                remedy=f"correct it or change {{option}} (currently {num_classes})",
            )
    actions = tuple(Action(label - first, start, end) for label, start, end in entry.actions)
    return Video(video, entry.subset, entry.duration, actions)
