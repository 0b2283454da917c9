"""Score prediction files by every applicable rule, with a bootstrap over the same videos.

Rules and the files that they need:

    official     a submission `id frame score ...`, frames 1..25        eval.charades_localize
    video level  the same                                               eval.video_level
    released     released.txt, and the number of frames of each video   eval.per_frame
    dense        an .npz file of the scores of all steps                eval.dense
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.progress import progress
from datasets.clips import video_length
from datasets.frames import count_all_frames
from eval import charades_localize, dense, video_level
from eval.average_precision import average_precision
from eval.bootstrap import Sampled, draw_counts, resampled_ap
from eval.charades_localize import Truth, check_classes, read_predictions
from eval.per_frame import released_frames
from eval.submission import FRAMES_PER_VIDEO

COUNTS_ZERO = ("released", "dense")  # rules that count a class without positives as AP 0
FOLDER = "give a stage folder, such as RUN/coarse"


class Rows(NamedTuple):
    """Inputs of a rule: scores and labels (F,C) per video, in the order of the ground truth."""

    videos: list[str]
    scores: list[np.ndarray]
    labels: list[np.ndarray]


@dataclass(frozen=True)
class Scored:
    """One prediction file scored by one rule.

    Attributes:
        path: As given by the user; tables show `letter` instead.
        videos: Number of videos scored by the rule.
        positives: Number of positives (C,).
        scores: "AP" of each class, and the means by name, with suffix "_defined" if a class without positives makes
            the mean over all classes undefined.
        differences: From the first file's scores by the same rule; empty for the first file.
    """

    path: str
    letter: str
    rule: str
    videos: int
    positives: np.ndarray
    scores: dict[str, Sampled]
    differences: dict[str, Sampled]


# --- files ------------------------------------------------------------------------------------------------------------


def prediction_files(path: Path) -> list[Path]:
    """The files of a stage folder to score: official.txt, and released.txt and dense.npz if they exist."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; {FOLDER}, or a file")
    folder = path / "predictions" if (path / "predictions").is_dir() else path
    official, *others = (folder / name for name in ("official.txt", "released.txt", "dense.npz"))
    if not official.is_file():
        raise InputError(f"{path}: contains no predictions/official.txt; {FOLDER}")
    return [official, *(file for file in others if file.is_file())]


@dataclass
class Reader:
    """Reads prediction files for one ground truth.

    Attributes:
        truth: The test videos, read from `source`.
        frames, stride: Frame folder and data.stride of the runs, on which the labels of rule "released" depend.
        num_classes: Number of classes in the first file; 0 before it is read.
        remarks: Notes on unusual files, for the console.
    """

    truth: Mapping[str, Truth]
    source: Path
    frames: Path | None
    stride: int
    num_classes: int = 0
    remarks: list[str] = field(default_factory=list)

    def read(self, path: Path) -> dict[str, Rows]:
        """Read a prediction file or stage folder as {rule: Rows}."""
        found: dict[str, Rows] = {}
        for file in prediction_files(path):
            if file.suffix.lower() == ".npz":
                found["dense"] = self._dense(file)
            elif not file.name.startswith("released"):
                found |= self._whole(file)
            elif self.frames or file == path:
                found["released"] = self._released(file)
        return found

    def _submission(self, path: Path) -> dict[str, np.ndarray]:
        predictions = read_predictions(path, self.num_classes or None)
        self._check(path, predictions, next(iter(predictions.values())).shape[1])
        return predictions

    def _check(self, path: Path, predictions: Mapping[str, object], num_classes: int) -> None:
        """Check that the predictions match the ground truth and the files read so far."""
        if self.num_classes not in (0, num_classes):
            raise InputError(f"{path}: {num_classes} scores per step, expected {self.num_classes}")
        unknown = [video for video in predictions if video not in self.truth]
        if len(unknown) == len(predictions):
            raise InputError(f"{path}: none of its videos ({unknown[0]}, ...) is in {self.source}; do they match?")
        if unknown:
            self.remarks.append(f"{path}: {len(unknown)} videos not in the ground truth, ignored: {unknown[0]}, ...")
        check_classes(self.truth, num_classes, f"{self.source} with {path} (is --first_class correct?)")
        self.num_classes = num_classes

    def _whole(self, path: Path) -> dict[str, Rows]:
        predictions = self._submission(path)
        videos = list(self.truth)
        official = Rows(videos, *charades_localize.rows(predictions, self.truth, self.num_classes))
        by_video = Rows(videos, *video_level.rows(predictions, self.truth, self.num_classes))
        missing = sum(int(np.isneginf(frames).all(axis=1).sum()) for frames in official.scores)
        if missing:
            total = FRAMES_PER_VIDEO * len(videos)
            self.remarks.append(f"{path}: {missing} of {total} frames have no prediction: -inf")
        return {"official": official, "video level": by_video}

    def _dense(self, path: Path) -> Rows:
        """Rows for the file's videos only, since the number of steps of other videos is unknown."""
        steps = dense.read_steps(path)
        self._check(path, steps, next(iter(steps.values())).scores.shape[1])
        known = {video: actions for video, actions in self.truth.items() if video in steps}
        missing = len(self.truth) - len(known)
        if missing:
            self.remarks.append(f"{path}: {missing} of {len(self.truth)} videos have no prediction: not in rule dense")
        return Rows(list(known), *dense.rows(steps, known, self.num_classes))

    def _released(self, path: Path) -> Rows:
        """Rows for the file's videos, since training writes exactly those that the rule scores."""
        predictions = self._submission(path)
        if self.frames is None:
            raise InputError(f"{path}: rule released needs the number of frames of each video; give --frames")
        videos = [video for video in self.truth if video in predictions]
        numbers = count_all_frames(self.frames, videos)
        scores, labels = [], []
        for video in videos:
            n, (actions, length) = numbers[video], self.truth[video]
            if not n:
                raise InputError(f"{self.frames}: no frames for video {video}, which {path} contains")
            chosen = released_frames(min(n, video_length(n, self.stride) * self.stride))
            lines = int((~np.isneginf(predictions[video]).all(axis=1)).sum())
            if lines != len(chosen):
                raise InputError(
                    f"{path}: {lines} lines for video {video}, expected {len(chosen)} for its {n} frames in "
                    f"{self.frames}; was this released.txt made from these frames?"
                )
            scores.append(predictions[video][:lines])
            labels.append(dense.step_labels(actions, chosen * length / n, self.num_classes))
        return Rows(videos, scores, labels)


# --- scores -----------------------------------------------------------------------------------------------------------


def score_all(
    files: Mapping[str, Mapping[str, Rows]], truth: Iterable[str], *, resamples: int, seed: int
) -> list[Scored]:
    """Score {path: {rule: Rows}} on the same resamples of the ground truth's videos."""
    videos = list(truth)
    counts = dict(zip(videos, draw_counts(len(videos), resamples, seed), strict=True))
    scored: list[Scored] = []
    for letter, (path, rules) in zip(ascii_uppercase, files.items(), strict=False):
        for rule, rows in rules.items():
            drawn = np.stack([counts[video] for video in rows.videos])  # (V,B)
            of_classes = resampled_ap(rows.scores, rows.labels, drawn)
            title = f"{path}, rule {rule}: {resamples} resamples of {len(rows.videos)} videos, class by class"
            resampled = np.stack(list(progress(of_classes, rows.scores[0].shape[1], title)), axis=1)  # (B,C)
            positives = np.stack([labels.sum(axis=0) for labels in rows.labels])  # (V,C)
            ap = average_precision(rows.scores, rows.labels)
            of_all, of_resamples = means(rule, ap, positives.sum(axis=0)), means(rule, resampled, drawn.T @ positives)
            suffix = "" if rule in COUNTS_ZERO or positives.any(axis=0).all() else "_defined"
            scores = {name + suffix: Sampled(mean, of_resamples[name], is_mean=True) for name, mean in of_all.items()}
            scores["AP"] = Sampled(ap, resampled)
            first = next((s.scores for s in scored if (s.letter, s.rule) == ("A", rule)), {})
            differences = {name: scores[name].minus(other) for name, other in first.items() if name in scores}
            scored.append(Scored(path, letter, rule, len(drawn), positives.sum(axis=0), scores, differences))
    return scored


def means(rule: str, ap: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
    """The rule's means over the last axis of `ap` (...,C). Classes without positives are excluded or count as 0."""
    zeroed = np.nan_to_num(ap)
    if rule in COUNTS_ZERO:
        return {"mAP": zeroed.mean(axis=-1)}
    with np.errstate(invalid="ignore"):  # 0 / 0 if no class has positives
        found = {"mAP": zeroed.sum(axis=-1) / (~np.isnan(ap)).sum(axis=-1)}
        if rule == "official":
            found["wAP"] = (zeroed * positives).sum(axis=-1) / positives.sum(axis=-1)
    return found
