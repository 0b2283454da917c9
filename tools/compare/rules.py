"""What `tools.compare` scores: prediction files by every rule that they allow, with bootstrap over the same videos.

Rules and the files that they need:

    official     a submission `id frame score ...`, frames 1..25        eval.charades_localize
    video level  the same                                               eval.video_level
    released     released.txt, and the numbers of frames of its videos  eval.per_frame
    dense        an .npz file of the scores of all steps                eval.dense
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from common.errors import InputError
from common.progress import progress
from datasets.clips import video_length
from datasets.frames import count_all_frames
from eval import charades_localize, dense, video_level
from eval.average_precision import average_precision
from eval.bootstrap import basic_interval, draw_counts, percentile_interval, resampled_ap
from eval.charades_localize import Truth, check_classes, read_predictions
from eval.per_frame import released_frames
from eval.submission import FRAMES_PER_VIDEO

Predictions = Mapping[str, np.ndarray]


class Rows(NamedTuple):
    """What a rule ranks: of each video, in the ground truth's order, scores and labels (F,C)."""

    videos: list[str]
    scores: list[np.ndarray]
    labels: list[np.ndarray]


class Sampled(NamedTuple):
    """A statistic of the videos, and its values in the resamples; fractions, NaN where undefined."""

    value: np.ndarray  # () or (C,)
    resamples: np.ndarray  # (B,) or (B,C)
    is_mean: bool  # over classes
    is_difference: bool = False

    def minus(self, other: Self) -> Self:
        """The paired difference: resample by resample, since all drew the same videos."""
        return self._replace(
            value=self.value - other.value, resamples=self.resamples - other.resamples, is_difference=True
        )

    def of_class(self, c: int) -> Self:
        return self._replace(value=self.value[c], resamples=self.resamples[:, c])

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), 95%: of a mean over classes a basic interval, of a class a percentile one (eval.bootstrap)."""
        if not self.is_mean:
            return percentile_interval(self.resamples)
        low, high = basic_interval(self.value, self.resamples)
        lowest = -1 if self.is_difference else 0
        return np.clip(low, lowest, 1), np.clip(high, lowest, 1)


@dataclass(frozen=True)
class Scored:
    """One prediction file by one rule."""

    path: str  # as the user gave it
    rule: str
    videos: int
    positives: np.ndarray  # (C,)
    AP: Sampled  # of each class
    means: dict[str, Sampled]  # by name; "..._defined" where a class without positives leaves the mean itself undefined


@dataclass(frozen=True)
class Frames:
    """Where the videos' frames are, for rule "released", whose labels depend on how many there are."""

    folder: Path
    stride: int


# --- files ------------------------------------------------------------------------------------------------------------


def prediction_files(path: Path) -> list[Path]:
    """What may be scored of a stage's folder: official.txt, released.txt, dense.npz; of a file, that."""
    if not path.is_dir():
        return [path]
    folder = path / "predictions" if (path / "predictions").is_dir() else path
    return [folder / name for name in ("official.txt", "released.txt", "dense.npz")]


@dataclass
class Reader:
    """Reads prediction files of one ground truth; the first file decides how many classes there are."""

    truth: Mapping[str, Truth]
    source: Path  # of the truth
    frames: Frames | None = None
    num_classes: int | None = None
    remarks: list[str] = field(default_factory=list)  # what is odd about the files, for the console

    def read(self, path: Path) -> dict[str, Rows]:
        """{rule: Rows} of a prediction file or of a stage's folder."""
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give a stage's folder, as RUN/coarse, or a file")
        if path.is_dir():
            official, released, dense_steps = prediction_files(path)
            if not official.is_file():
                raise InputError(f"{path}: no predictions/official.txt in it; give a stage's folder, as RUN/coarse")
            found = self.read(official)
            if self.frames and released.is_file():
                found |= self.read(released)
            if dense_steps.is_file():
                found |= self.read(dense_steps)
            return found
        if path.suffix.lower() == ".npz":
            return self._dense(path)
        predictions = read_predictions(path, self.num_classes)
        self._check(path, predictions, next(iter(predictions.values())).shape[1])
        return self._released(path, predictions) if path.name.startswith("released") else self._whole(path, predictions)

    def _check(self, path: Path, predictions: Mapping, num_classes: int) -> None:
        """Whether the predictions fit the ground truth and the files before."""
        if self.num_classes not in (None, num_classes):
            raise InputError(f"{path}: {num_classes} scores a step where {self.num_classes} are expected")
        unknown = [video for video in predictions if video not in self.truth]
        if len(unknown) == len(predictions):
            raise InputError(f"{path}: none of its videos ({unknown[0]}, ...) is in {self.source}; are these a pair?")
        if unknown:
            self.remarks.append(f"{path}: {len(unknown)} videos not in the ground truth, ignored: {unknown[0]}, ...")
        try:
            check_classes(self.truth, num_classes, self.source)
        except InputError as error:
            raise InputError(f"{error} of {path}; are these a pair, and does --first_class fit?") from None
        self.num_classes = num_classes

    def _whole(self, path: Path, predictions: Predictions) -> dict[str, Rows]:
        official = charades_localize.rows(predictions, self.truth, self.num_classes)
        missing = sum(int(np.isneginf(frames).all(axis=1).sum()) for frames in official[0])
        if missing:
            total = FRAMES_PER_VIDEO * len(self.truth)
            self.remarks.append(f"{path}: {missing} of {total} frames have no prediction: -inf")
        by_video = video_level.rows(predictions, self.truth, self.num_classes)
        return {"official": Rows(list(self.truth), *official), "video level": Rows(list(self.truth), *by_video)}

    def _dense(self, path: Path) -> dict[str, Rows]:
        """The videos of the file: how many steps another one would have is not known."""
        steps = dense.read_steps(path)
        self._check(path, steps, next(iter(steps.values())).scores.shape[1])
        scored = {video: known for video, known in self.truth.items() if video in steps}
        if len(scored) < len(self.truth):
            missing = len(self.truth) - len(scored)
            self.remarks.append(f"{path}: {missing} of {len(self.truth)} videos have no prediction: not in rule dense")
        return {"dense": Rows(list(scored), *dense.rows(steps, scored, self.num_classes))}

    def _released(self, path: Path, predictions: Predictions) -> dict[str, Rows]:
        """The videos of the file, since training has written those that the rule scores."""
        if self.frames is None:
            raise InputError(f"{path}: rule released depends on the videos' numbers of frames; give --frames")
        videos = [video for video in self.truth if video in predictions]
        numbers = count_all_frames(self.frames.folder, videos)
        scores, labels = [], []
        for video in videos:
            n, stride, (actions, length) = numbers[video], self.frames.stride, self.truth[video]
            if not n:
                raise InputError(f"{self.frames.folder}: no frames of video {video}, which is in {path}")
            chosen = released_frames(min(n, video_length(n, stride) * stride))
            present = ~np.isneginf(predictions[video]).all(axis=1)
            if present.sum() != len(chosen):
                raise InputError(
                    f"{path}: {present.sum()} lines of video {video}, {len(chosen)} for the {n} frames that it has in "
                    f"{self.frames.folder}; is this a released.txt of these frames?"
                )
            scores.append(predictions[video][: len(chosen)])
            labels.append(dense.step_labels(actions, chosen * length / n, self.num_classes))
        return {"released": Rows(videos, scores, labels)}


# --- scores -----------------------------------------------------------------------------------------------------------


def score_all(
    files: Mapping[str, Mapping[str, Rows]], truth: Sequence[str], *, resamples: int, seed: int
) -> list[Scored]:
    """Score {path: {rule: Rows}}; all use the same resamples of the ground truth's videos."""
    place = {video: number for number, video in enumerate(truth)}
    counts = draw_counts(len(place), resamples, seed)
    jobs = [(path, rule, rows) for path, found in files.items() for rule, rows in found.items()]
    total = sum(rows.scores[0].shape[1] for _, _, rows in jobs)
    drawn = (
        (number, ap)
        for number, (_, _, rows) in enumerate(jobs)
        for ap in resampled_ap(rows.scores, rows.labels, counts[[place[video] for video in rows.videos]])
    )
    resampled: list[list[np.ndarray]] = [[] for _ in jobs]
    for number, ap in progress(drawn, total, f"{resamples} resamples of {len(place)} videos, class by class"):
        resampled[number].append(ap)
    return [_scored(*job, np.stack(ap, axis=1), counts, place) for job, ap in zip(jobs, resampled, strict=True)]


def _scored(path: str, rule: str, rows: Rows, ap: np.ndarray, counts: np.ndarray, place: Mapping[str, int]) -> Scored:
    by_video = np.stack([labels.sum(axis=0) for labels in rows.labels])  # (V,C)
    positives = by_video.sum(axis=0)
    AP = Sampled(average_precision(rows.scores, rows.labels), ap, is_mean=False)
    of_resamples = means(rule, ap, counts[[place[video] for video in rows.videos]].T @ by_video)
    suffix = "" if rule in COUNTS_ZERO or positives.all() else "_defined"
    of_all = means(rule, AP.value, positives)
    named = {name + suffix: Sampled(value, of_resamples[name], is_mean=True) for name, value in of_all.items()}
    return Scored(path, rule, len(rows.videos), positives, AP, named)


COUNTS_ZERO = ("released", "dense")  # rules by which a class without positives counts as AP 0


def means(rule: str, ap: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
    """The rule's means over the last axis of `ap` (...,C): over the classes with positives, or with the others as 0."""
    zeroed = np.nan_to_num(ap)
    if rule in COUNTS_ZERO:
        return {"mAP": zeroed.mean(axis=-1)}
    with np.errstate(invalid="ignore"):  # no positive of any class: 0 / 0
        found = {"mAP": zeroed.sum(axis=-1) / (~np.isnan(ap)).sum(axis=-1)}
        if rule == "official":
            found["wAP"] = (zeroed * positives).sum(axis=-1) / positives.sum(axis=-1)
    return found
