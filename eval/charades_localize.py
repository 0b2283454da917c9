"""The official Charades localization metric (`Charades_v1_localize`), called rule "official" in this project.

Frame j of 1..25 is at time (j-1)/25 * length, and an action is present there iff start <= time <= end. All videos
of the ground truth are scored: a (video, frame) without a line in the submission scores -inf. For each class, frames
are ranked by score, with ties in the order of the ground truth. mAP is the mean AP over classes, and wAP the mean
weighted by their numbers of positives. Both are undefined if a class has no positives.

    python -m eval.charades_localize PREDICTIONS GROUND_TRUTH_CSV

PREDICTIONS is a submission, or a file of scores from the published code (`eval.published_scores`).
"""

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.arguments import COUNT, Parser, exit_status
from common.errors import InputError
from common.text import first_few
from eval.average_precision import average_precision
from eval.published_scores import is_published, read_published
from eval.submission import CHARADES_CLASSES, FRAMES_PER_VIDEO, read_predictions


class Truth(NamedTuple):
    """Ground truth of one video: its actions [(class from 0, start, end)] and its length, all times in seconds."""

    actions: Sequence[tuple[int, float, float]]
    length: float


@dataclass(frozen=True)
class Localization:
    """Result of the official rule, as fractions; None if undefined."""

    AP: np.ndarray  # (C,) float64, NaN for a class without positives
    mAP: float | None  # noqa: N815 (the field's names)
    wAP: float | None  # noqa: N815
    mAP_defined: float | None  # noqa: N815  mean over the classes that have positives
    classes_without_positives: list[int]
    missing_frames: int  # (video, frame) pairs of the ground truth without a line; scored -inf
    unknown_videos: list[str]  # predicted, but not in the ground truth; ignored


def read_ground_truth(path: str | Path, num_classes: int | None = None) -> dict[str, Truth]:
    """Read an official CSV (columns id, actions, length and others) as {video id: Truth}, in the order of the file.

    Raises InputError with the video id for malformed rows, duplicate ids and, with `num_classes`, classes outside
    0..num_classes-1. Actions that end before they start or beyond the length are accepted, since Charades contains
    both.
    """
    truth: dict[str, Truth] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            missing = {"id", "actions", "length"} - set(lines.fieldnames or ())
            if missing:
                raise InputError(f"{path}: no column {', '.join(sorted(missing))}; is it an official Charades CSV?")
            for row in lines:
                video = row["id"]
                if video in truth:
                    raise InputError(f"{path}: video {video} occurs twice")
                truth[video] = _truth_of(row, f"{path}: video {video}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    if num_classes is not None:
        check_classes(truth, num_classes, path)
    return truth


def _truth_of(row: Mapping[str, str | None], place: str) -> Truth:
    """Parse a CSV row: actions as `c077 12.10 18.00;c079 11.80 17.30`, length in seconds."""
    actions = []
    for text in filter(str.strip, (row["actions"] or "").split(";")):
        try:
            name, start, end = text.split()
            action = (int(name.removeprefix("c")), float(start), float(end))
            if action[0] < 0 or math.isnan(action[1]) or math.isnan(action[2]):
                raise ValueError
        except ValueError:
            raise InputError(f"{place}: action {text!r} is not of the form `c077 12.10 18.00`") from None
        actions.append(action)
    try:
        length = float(row["length"] or "")
    except ValueError:
        length = math.nan
    if not (math.isfinite(length) and length >= 0):
        raise InputError(f"{place}: length {row['length']!r} is not a number of seconds")
    return Truth(actions, length)


def check_classes(truth: Mapping[str, Truth], num_classes: int, source: str | Path) -> None:
    """Raise InputError for the first video with a class outside 0..num_classes-1."""
    for video, (actions, _) in truth.items():
        for name, _, _ in actions:
            if not 0 <= name < num_classes:
                raise InputError(f"{source}: video {video} has class {name}, outside 0..{num_classes - 1}")


def frame_labels(actions: Sequence[tuple[int, float, float]], length: float, num_classes: int) -> np.ndarray:
    """Boolean labels (25, C) of a video at its 25 frames; both ends of an action are included."""
    times = np.arange(FRAMES_PER_VIDEO) / FRAMES_PER_VIDEO * length
    labels = np.zeros((FRAMES_PER_VIDEO, num_classes), bool)
    for name, start, end in actions:
        labels[:, name] |= (start <= times) & (times <= end)
    return labels


def rows(
    predictions: Mapping[str, np.ndarray], truth: Mapping[str, Truth], num_classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and labels, (25,C) for each video of `truth`, in ranking order for ties."""
    if not truth:
        raise InputError("the ground truth contains no videos")
    absent = np.full((FRAMES_PER_VIDEO, num_classes), -np.inf)
    scores = [predictions.get(video, absent) for video in truth]
    return scores, [frame_labels(actions, length, num_classes) for actions, length in truth.values()]


def localize(predictions: Mapping[str, np.ndarray], truth: Mapping[str, Truth], num_classes: int) -> Localization:
    """Score {video id: (25, C)}. Ties are ranked in the order of `truth`."""
    scores, labels = rows(predictions, truth, num_classes)
    ap = average_precision(scores, labels)
    positives = np.sum([video_labels.sum(0) for video_labels in labels], axis=0)
    defined = positives > 0
    complete = bool(defined.all())
    return Localization(
        AP=ap,
        mAP=float(ap.mean()) if complete else None,
        wAP=float(ap @ positives / positives.sum()) if complete else None,
        mAP_defined=float(ap[defined].mean()) if defined.any() else None,
        classes_without_positives=np.flatnonzero(~defined).tolist(),
        missing_frames=sum(int(np.isneginf(frames).all(axis=1).sum()) for frames in scores),
        unknown_videos=[video for video in predictions if video not in truth],
    )


def read_scores(path: str | Path, truth: Mapping[str, Truth], num_classes: int | None = None) -> dict[str, np.ndarray]:
    """Read {video id: scores (25,C)} from a submission, or from a file of scores written by the published code.

    Raises:
        InputError: for malformed files, and for scores of the published code with a number of classes other than 157
            if the ground truth is Charades.
    """
    if not is_published(path):
        return read_predictions(path, num_classes)
    classes = {label for actions, _ in truth.values() for label, *_ in actions}
    if num_classes is None and max(classes, default=0) == CHARADES_CLASSES - 1:
        num_classes = CHARADES_CLASSES
    return read_published(path, {video: known.length for video, known in truth.items()}, num_classes)


def main(argv: list[str] | None = None) -> int:
    """Print the mAP and wAP of a submission; returns 1 after a one-line error if a file cannot be scored."""
    parser = Parser(
        prog="python -m eval.charades_localize", description="Official Charades localization scores of a submission."
    )
    parser.add_argument(
        "predictions",
        help="submission (`id frame score ...`) or published scores (`id,position,score ...`), plain or .gz",
    )
    parser.add_argument("ground_truth", help="official CSV, such as Charades_v1_test.csv")
    parser.add_argument("--num_classes", type=COUNT, help="scores per line (default: from the file; 157 for Charades)")
    args = parser.parse_args(argv)
    return exit_status("charades_localize", lambda: print_scores(args.predictions, args.ground_truth, args.num_classes))


def print_scores(predictions_file: str, ground_truth: str, num_classes: int | None) -> None:
    """Score a file. By default, the number of classes is taken from the file."""
    truth = read_ground_truth(ground_truth)
    predictions = read_scores(predictions_file, truth, num_classes)
    num_classes = next(iter(predictions.values())).shape[1]
    check_classes(truth, num_classes, ground_truth)
    result = localize(predictions, truth, num_classes)
    print(f"{len(truth)} videos, {num_classes} classes, {FRAMES_PER_VIDEO} frames per video")
    if result.missing_frames:
        print(f"{result.missing_frames} of {len(truth) * FRAMES_PER_VIDEO} frames have no prediction: -inf")
    if unknown := result.unknown_videos:
        print(f"{len(unknown)} predicted videos are not in the ground truth, ignored: {first_few(unknown)}")
    scores = {"mAP": result.mAP, "wAP": result.wAP}
    if result.classes_without_positives:
        names = ", ".join(f"c{c:03d}" for c in result.classes_without_positives)
        print(f"mAP and wAP are undefined, classes without positives: {names}")
        scores = {"mAP over the other classes": result.mAP_defined}
    for name, fraction in scores.items():
        print(f"{name}  " + ("undefined" if fraction is None else f"{100 * fraction:.2f} %  (fraction {fraction:.6f})"))


if __name__ == "__main__":
    sys.exit(main())
