"""Scoring a detector on a set of videos, from the submission files that it writes.

Videos can be added in any order, by any process; their scores are kept as numpy arrays. `finish` writes

    predictions/official.txt   every video, at the official frames
    predictions/released.txt   videos with at least `min_frames` frames, at the frames of rule "released"
    predictions/dense.npz      every video, at all frames; only with `save_frames`

and computes the metrics from the text files read back, so that they agree with the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from eval.charades_localize import Truth, check_classes, localize
from eval.dense import Steps, write_steps
from eval.per_frame import frame_ap, official_frames, released_frames
from eval.submission import read_predictions, write_predictions


class VideoScores(NamedTuple):
    """Scores (float32) and labels (bool) of one video. `frames` is empty unless all frames are scored."""

    official: np.ndarray  # (25,C) probabilities at the official frames
    released: np.ndarray  # (F,C), F <= 25, at the frames of rule "released"
    released_labels: np.ndarray  # (F,C)
    frames: np.ndarray  # (L,C) at all valid frames, or (0,C)
    frame_labels: np.ndarray  # as frames
    num_frames: int  # n


@dataclass(kw_only=True)
class DetectionEvaluator:
    """Collects per-frame probabilities of videos; `finish` writes the files and computes the metrics.

    num_classes: C.
    truth: ground truth of the test videos by id. Its order defines the order of the files and of ties.
    min_frames: shorter videos are excluded from rule "released" and `mAP_frames`, but not from rule "official".
    all_frames: also score all valid frames, as in the published stage 1 and rule "dense" (5 C bytes per frame).
    save_frames: with `all_frames`, also write their scores (4 C bytes per frame).

    To evaluate in several processes, use one evaluator per process and merge them with `videos.update(other.videos)`.
    """

    num_classes: int
    truth: Mapping[str, Truth]
    min_frames: int = 162
    all_frames: bool = False
    save_frames: bool = False
    videos: dict[str, VideoScores] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_classes(self.truth, self.num_classes, "ground truth")

    def add(self, video: str, probabilities: np.ndarray, labels: np.ndarray, *, num_frames: int) -> None:
        """Add the scores of one video.

        probabilities, labels: (L,C) at the video's L valid label frames, without padding; labels 0/1 as in training
        (used for rule "released"). num_frames: n >= L, the number of frames in the video.
        """
        probabilities, labels = np.asarray(probabilities), np.asarray(labels)
        L = len(probabilities)
        if probabilities.shape != labels.shape or probabilities.shape != (L, self.num_classes) or L < 1:
            raise ValueError(
                f"video {video}: probabilities {probabilities.shape} and labels {labels.shape} "
                f"must both be (L,{self.num_classes})"
            )
        if video in self.videos:
            raise ValueError(f"video {video} was added twice")
        if np.isnan(probabilities).any():
            raise InputError(f"video {video}: the network outputs NaN; its weights or inputs are not finite")

        probabilities, labels = probabilities.astype(np.float32, copy=False), labels != 0
        chosen, kept = released_frames(L), slice(L if self.all_frames else 0)
        self.videos[video] = VideoScores(
            official=probabilities[official_frames(num_frames, L)],
            released=probabilities[chosen],
            released_labels=labels[chosen],
            frames=probabilities[kept].copy(),
            frame_labels=labels[kept].copy(),
            num_frames=num_frames,
        )

    def finish(self, folder: str | Path) -> dict[str, object]:
        """Write the files to `folder`/predictions, return the metrics, and clear the evaluator.

        Metrics are fractions, or None (never NaN) if undefined; `AP_*` are lists over the classes.
        """
        if not self.videos:
            raise InputError("no videos were evaluated; are there test videos with frames?")
        predictions = Path(folder) / "predictions"
        rank = {video: position for position, video in enumerate(self.truth)}
        order = sorted(self.videos, key=lambda video: (rank.get(video, len(rank)), video))  # unknown ones last, by id
        ordered = {video: self.videos[video] for video in order}
        metrics = self._official(ordered, predictions / "official.txt")
        long_enough = {video: kept for video, kept in ordered.items() if kept.num_frames >= self.min_frames}
        metrics |= self._released(long_enough, predictions / "released.txt")
        if self.all_frames:
            scores = [kept.frames for kept in long_enough.values()]
            metrics |= self._per_frame("frames", scores, [kept.frame_labels for kept in long_enough.values()])
        if self.save_frames:
            steps = {}
            for video, kept in ordered.items():
                if video in self.truth:  # frame k (from 0) of n is at k/n of its length
                    seconds = np.arange(len(kept.frames)) * self.truth[video].length / kept.num_frames
                    steps[video] = Steps(kept.frames, seconds)
            write_steps(predictions / "dense.npz", steps)
        self.videos = {}
        return metrics

    def _official(self, videos: dict[str, VideoScores], path: Path) -> dict[str, object]:
        write_predictions(path, {video: kept.official for video, kept in videos.items()})
        result = localize(read_predictions(path, self.num_classes), self.truth, self.num_classes)
        return {
            "mAP_official": result.mAP,
            "wAP_official": result.wAP,
            "mAP_official_defined": result.mAP_defined,
            "AP_official": _nullable(result.AP),
            "classes_without_positives": result.classes_without_positives,
            "videos_official": len(self.truth),
            "videos_without_prediction": len(self.truth.keys() - videos.keys()),
            "videos_not_in_ground_truth": len(result.unknown_videos),
        }

    def _released(self, videos: dict[str, VideoScores], path: Path) -> dict[str, object]:
        write_predictions(path, {video: kept.released for video, kept in videos.items()})
        written = read_predictions(path, self.num_classes) if videos else {}
        labels = [kept.released_labels for kept in videos.values()]
        scores = [written[video][: len(rows)] for video, rows in zip(videos, labels, strict=True)]
        return {**self._per_frame("released", scores, labels), "videos_released": len(videos)}

    def _per_frame(self, rule: str, scores: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, object]:
        if not scores:
            return {f"mAP_{rule}": None, f"AP_{rule}": [None] * self.num_classes}
        ap, mean = frame_ap(scores, labels)
        return {f"mAP_{rule}": mean, f"AP_{rule}": _nullable(ap)}


def _nullable(ap: np.ndarray) -> list[float | None]:
    """Convert AP (C,) for JSON: NaN becomes None."""
    return [None if np.isnan(value) else float(value) for value in ap]
