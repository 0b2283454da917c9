"""Which activities happen when: annotations of a dataset, read and validated once (section 4 of the paper, "Charades").

Two forms are read: the JSON of the community's data loaders,

    {video id: {"subset": "training"|"testing", "duration": seconds, "actions": [[class, start, end], ...]}}

and a folder that holds both official files, Charades_v1_train.csv and Charades_v1_test.csv. Whatever would make a wrong
experiment is an `InputError` that names the file and the video; what the real annotations contain (intervals that end
beyond the video, or before they start) is counted and reported, and kept as it is.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from common.errors import InputError
from eval.charades_localize import Truth, read_ground_truth

Subset = Literal["training", "testing"]
OFFICIAL_FILES: dict[Subset, str] = {"training": "Charades_v1_train.csv", "testing": "Charades_v1_test.csv"}
NUMBERED_NAME = re.compile(r"c?(\d+)\s+(.+)")  # of a class, as in Charades_v1_classes.txt


def _not_text_or_boolean(value: object) -> object:
    """Pydantic would take `true` for class 1, and "1" too; 1.0 is a whole number in JSON."""
    if isinstance(value, bool | str):
        raise ValueError("not a number")
    return value


Class = Annotated[int, BeforeValidator(_not_text_or_boolean)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Action(NamedTuple):
    """One interval of one activity: class from 0, start and end in seconds."""

    label: int
    start: float
    end: float


class Video(NamedTuple):
    """An annotated video: duration in seconds, actions in the file's order."""

    id: str
    subset: Subset
    duration: float
    actions: tuple[Action, ...]


class VideoEntry(BaseModel):
    """A video's record in the JSON form, classes still counted as in the file."""

    subset: Subset = Field(description="whether the video is trained on or tested on")
    duration: Annotated[Seconds, Field(gt=0)] = Field(description="length of the video in seconds")
    actions: list[tuple[Class, Seconds, Seconds]] = Field(
        description="[class, start, end] of every activity, in any order: classes are whole numbers, times are seconds "
        "from the video's start; activities may overlap"
    )
    first_class: Annotated[Class, Field(ge=0)] | None = Field(
        default=None, description="number of the first class in `actions`, where it is not the dataset's own (0, or 1)"
    )


_ENTRY = TypeAdapter(VideoEntry)
_EXPECTED = {
    "subset": '"training" or "testing"',
    "duration": "seconds above 0",
    "actions": "a list of [class, start, end]",
    "first_class": "the number of the first class, 0 or more",
}


class Options(NamedTuple):
    """What a command calls its options, for the remedies; empty where it lacks one."""

    annotations: str = "--data.annotations"
    num_classes: str = "--data.num_classes"
    class_names: str = "--data.class_names"


STAGES = Options()


@dataclass(frozen=True)
class Annotations:
    """All videos of a dataset in the file's order, with what is odd about them.

    Attributes:
        path: The file or folder they were read from.
        videos: Training and test videos; ids are unique.
        beyond_duration: Number of actions that end after their video.
        empty_intervals: Number of actions that end at or before their start; they label no frame.
        expected: Videos per subset of the full dataset, for the report; empty where unknown.
    """

    path: Path
    videos: tuple[Video, ...]
    beyond_duration: int
    empty_intervals: int
    expected: dict[str, int] = field(default_factory=dict)

    def subset(self, name: Subset) -> list[Video]:
        """The training or the test videos."""
        return [video for video in self.videos if video.subset == name]

    def truth(self) -> dict[str, Truth]:
        """What the metrics take of the test videos, where there is no official CSV of them."""
        return {video.id: Truth(video.actions, video.duration) for video in self.subset("testing")}

    def summary(self) -> str:
        """How much was read, and how it differs from the full dataset."""
        counts = Counter(video.subset for video in self.videos)
        found = {subset: counts[subset] for subset in OFFICIAL_FILES}
        partial = ""
        if self.expected and found != self.expected:
            partial = " (the full dataset: {training} and {testing})".format(**self.expected)
        actions = sum(len(video.actions) for video in self.videos)
        return f"{self.path}: {found['training']} training, {found['testing']} test videos{partial}, {actions} actions"

    def report(self) -> str:
        """One line for the console: the summary, and what is odd."""
        odd = f"{self.beyond_duration} end after their video, {self.empty_intervals} not after their start"
        return f"{self.summary()}: {odd}"


def load_annotations(
    path: str | Path,
    *,
    num_classes: int,
    first_class: int = 0,
    expected: dict[str, int] | None = None,
    options: Options = STAGES,
) -> Annotations:
    """Read and validate a dataset's annotations.

    Args:
        path: A JSON file, or a folder with both official CSVs.
        num_classes: Number of classes; a class outside the range is an error.
        first_class: The number that the file gives to the first class (0 in Charades, 1 in multithumos.json).
        expected: Videos per subset of the full dataset, mentioned in the report where the file has others.
        options: Names of the command's options, for errors.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: no such annotations; give {options.annotations} a JSON file or a folder with {_both_files()}"
        )
    videos = _read_official(path, options) if path.is_dir() else _read_json(path, first_class, options)
    if not videos:
        raise InputError(f"{path}: no videos in it; give {options.annotations} the dataset's annotations")
    videos = tuple(_checked(path, video, num_classes, first_class, options) for video in videos)
    return Annotations(
        path=path,
        videos=videos,
        beyond_duration=sum(a.end > video.duration for video in videos for a in video.actions),
        empty_intervals=sum(a.end <= a.start for video in videos for a in video.actions),
        expected=expected or {},
    )


def json_schema() -> dict[str, object]:
    """The JSON form as a JSON Schema; what it cannot say (classes in range, ids once) `load_annotations` checks."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(dict[str, VideoEntry]).json_schema(),
        "title": "Annotations",
        "description": "Videos by id; an id is also the name of the video's frames folder",
    }


def read_class_names(path: str | Path | None, num_classes: int | None = None) -> list[str]:
    """Names by class: a text file with a name a line, plain or numbered as Charades_v1_classes.txt (`c000 Name`).

    Numbers count from 0 or 1 and must be in order: names in another order would be given to the wrong classes.

    Args:
        path: The file; None for "class 0", "class 1" and so on.
        num_classes: How many there must be; None for as many as the file has.
    """
    if path is None:
        return [f"class {label}" for label in range(num_classes or 0)]
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --data.class_names is a text file with a class name a line") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error.reason}); write a class name a line") from None
    names = _without_numbers(path, [line.strip() for line in text.splitlines() if line.strip()])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: names two classes {twice[0]!r}; tell them apart")
    if num_classes is not None and len(names) != num_classes:
        raise InputError(f"{path}: names {len(names)} classes, but --data.num_classes is {num_classes}; correct either")
    return names


def _without_numbers(path: str | Path, lines: list[str]) -> list[str]:
    """The names alone, where every line begins with a number."""
    numbered = [NUMBERED_NAME.fullmatch(line) for line in lines]
    if not lines or not all(numbered):
        return lines
    first = min(int(numbered[0][1]), 1)
    for due, (line, match) in enumerate(zip(lines, numbered, strict=True), first):
        if int(match[1]) != due:
            raise InputError(f"{path}: {line!r} stands where class {due} is due; put the classes in order")
    return [match[2] for match in numbered]


def read_table(path: Path, options: Options = STAGES) -> dict[str, object]:
    """{id: record} of the JSON form, records as they are; json alone would silently keep the last of one id's two."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: {twice[0]!r} occurs twice; keep one of its entries")
        return dict(pairs)

    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a JSON file ({reason}); give {options.annotations} the dataset's JSON") from None
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected an object from video ids to annotations, not a {type(table).__name__}")
    return table


def _read_json(path: Path, first_class: int, options: Options) -> list[Video]:
    """The videos of the JSON form, classes counted from `first_class`."""
    table = read_table(path, options)
    for video in table:
        _check_id(path, video)
    return [_from_entry(path, video, entry, first_class, options) for video, entry in table.items()]


def _from_entry(path: Path, video: str, record: object, first_class: int, options: Options) -> Video:
    """A video's record, its classes counted from `first_class`."""
    try:
        entry = _ENTRY.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        missing = first["type"] == "missing"
        mistake = _mistake(record, first["loc"], missing=missing, first_class=first_class, options=options)
        raise InputError(f"{path}: video {video}: {mistake}") from None
    shift = 0 if entry.first_class is None else first_class - entry.first_class
    actions = tuple(Action(label + shift, start, end) for label, start, end in entry.actions)
    return Video(video, entry.subset, entry.duration, actions)


def _mistake(record: object, place: tuple[str | int, ...], *, missing: bool, first_class: int, options: Options) -> str:
    """What is wrong at a place in a record: what is expected there, and what there is."""
    if not isinstance(record, dict):
        return f'expected {{"subset": ..., "duration": ..., "actions": [...]}}, got {_shown(record)}'
    key, *within = place
    if not within or not isinstance(record[key], list):
        return f"{key}: expected {_EXPECTED[key]}, got {'nothing' if missing else _shown(record[key])}"
    number, *part = within
    action, where = record[key][number], f"{key}[{number}]"
    if not part or not isinstance(action, list) or len(action) != len(Action._fields):
        return f"{where}: expected [class, start, end], got {_shown(action)}"
    given = _shown(action[part[0]])
    if part != [0]:
        return f"{where}: {Action._fields[part[0]]} {given}: times are seconds"
    names = f"; names go into {options.class_names}" if isinstance(action[0], str) and options.class_names else ""
    first = record["first_class"] if isinstance(record.get("first_class"), int) else first_class
    return f"{where}: class {given}: classes are whole numbers from {first}{names}"


def _shown(value: object) -> str:
    """As in the file, in a line, not too long."""
    text = " ".join(json.dumps(value, ensure_ascii=False).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _read_official(folder: Path, options: Options) -> list[Video]:
    """The official form: one CSV per subset."""
    videos: dict[str, Video] = {}
    for subset, name in OFFICIAL_FILES.items():
        file = folder / name
        if not file.is_file():
            raise InputError(
                f"{file}: no such file; {options.annotations} takes a JSON or a folder with {_both_files()}"
            )
        for video, (actions, length) in read_ground_truth(file).items():
            _check_id(file, video)
            if video in videos:
                raise InputError(f"{file}: video {video} is in {OFFICIAL_FILES['training']} too; remove it from one")
            videos[video] = Video(video, subset, float(length), tuple(Action(*action) for action in actions))
    return list(videos.values())


def _both_files() -> str:
    return " and ".join(OFFICIAL_FILES.values())


def _check_id(path: Path, video: str) -> None:
    if not video or video.startswith(".") or Path(video).name != video or video.split() != [video]:
        raise InputError(
            f"{path}: video {video!r}: an id names a folder, files and lines of a submission; "
            "it must be a plain file name without spaces"
        )


def _checked(path: Path, video: Video, num_classes: int, first_class: int, options: Options) -> Video:
    """The video with classes from 0, or an error where a duration or a class cannot be right."""
    if not video.duration > 0:
        raise InputError(f"{path}: video {video.id}: its duration is {video.duration:g} s; it must be positive")
    last = first_class + num_classes - 1
    remedy = f"correct it or set {options.num_classes} (now {num_classes})" if options.num_classes else "correct it"
    for action in video.actions:
        if not first_class <= action.label <= last:
            raise InputError(
                f"{path}: video {video.id}: class {action.label} is outside {first_class}..{last}; {remedy}"
            )
    if first_class == 0:
        return video
    return video._replace(actions=tuple(a._replace(label=a.label - first_class) for a in video.actions))
