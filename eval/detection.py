"""Scores a detector over a set of videos by both rules, from the submission files that it writes.

Videos are added in any order, by any process; what is kept of each is plain numpy. `finish` writes

    predictions/official.txt   every video, at the official frames
    predictions/released.txt   videos of at least `min_frames` frames, at the frames of rule "released"
    predictions/dense.npz      every video, at all frames; with `save_frames` only

reads them back and scores what it read, so that the metrics are those of the files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from eval.charades_localize import Truth, check_classes, localize, read_ground_truth
from eval.dense import Steps, write_steps
from eval.per_frame import frame_ap, official_frames, released_frames
from eval.submission import read_predictions, write_predictions


class VideoScores(NamedTuple):
    """What is kept of one video; labels are bool, scores float32. Those that may be None are where not scored."""

    official: np.ndarray  # (25,C) probabilities at the official frames
    released: np.ndarray | None  # (F,C), F <= 25, at the frames of rule "released"
    released_labels: np.ndarray | None  # (F,C)
    frames: np.ndarray | None  # (L,C) at all valid frames
    frame_labels: np.ndarray | None  # (L,C)
    num_frames: int  # n


class DetectionEvaluator:
    """Collects per-frame probabilities video by video; `finish` turns them into files and metrics.

    num_classes: C.
    ground_truth: official CSV, or {video id: (actions [(class, start, end)], length in seconds)} of the test videos,
        from the annotations. Its order is the order of the files and decides between equal scores.
    min_frames: shorter videos are left out of rule "released" and of `mAP_frames`, never of rule "official".
    all_frames: also score all valid frames, as the published stage 1 and rule "dense" (keeps 5 C bytes a frame).
    save_frames: with `all_frames`, also write their scores (4 C bytes a frame).

    To evaluate in several processes, give each its own evaluator and join them with `videos.update(other.videos)`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ground_truth: str | Path | Mapping[str, tuple[list, float]],
        min_frames: int = 162,
        all_frames: bool = False,
        save_frames: bool = False,
    ):
        if isinstance(ground_truth, Mapping):
            self.truth = {video: Truth(*known) for video, known in ground_truth.items()}
            check_classes(self.truth, num_classes, "annotations")
        else:
            self.truth = read_ground_truth(ground_truth, num_classes)
        self.num_classes = num_classes
        self.min_frames = min_frames
        self.all_frames = all_frames
        self.save_frames = save_frames
        self.videos: dict[str, VideoScores] = {}

    def add(self, video: str, probabilities: np.ndarray, labels: np.ndarray, *, num_frames: int) -> None:
        """Keep what is scored of one video.

        probabilities, labels: (L,C) at the video's L valid label frames, without padding; labels 0/1 by the labels'
        own rule (they serve rule "released"). num_frames: n >= L, all frames of the video.
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
            raise InputError(f"video {video}: the network predicts NaN; its weights or input are not finite")

        probabilities, labels = probabilities.astype(np.float32, copy=False), labels != 0
        long_enough = num_frames >= self.min_frames
        chosen = released_frames(L)
        self.videos[video] = VideoScores(
            official=probabilities[official_frames(num_frames, L)],
            released=probabilities[chosen] if long_enough else None,
            released_labels=labels[chosen] if long_enough else None,
            frames=probabilities.copy() if self.all_frames else None,
            frame_labels=labels if self.all_frames else None,
            num_frames=num_frames,
        )

    def finish(self, folder: str | Path) -> dict[str, object]:
        """Write both files below `folder`/predictions and return the metrics; the evaluator is then empty again.

        Metrics are fractions, None where undefined, never NaN; `AP_*` are lists over the classes.
        """
        if not self.videos:
            raise InputError("no video was evaluated; are there test videos with frames?")
        predictions = Path(folder) / "predictions"
        ordered = self._ordered()
        metrics = self._official(ordered, predictions / "official.txt")
        long_enough = {video: kept for video, kept in ordered.items() if kept.released is not None}
        metrics |= self._released(long_enough, predictions / "released.txt")
        if self.all_frames:
            metrics |= self._all_frames(long_enough)
        if self.save_frames:
            self._save_frames(ordered, predictions / "dense.npz")
        self.videos = {}
        return metrics

    def _ordered(self) -> dict[str, VideoScores]:
        """The videos in the ground truth's order, those that it does not name last, by id."""
        rank = {video: position for position, video in enumerate(self.truth)}
        return {video: self.videos[video] for video in sorted(self.videos, key=lambda v: (rank.get(v, len(rank)), v))}

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
        if not videos:
            return {"mAP_released": None, "AP_released": [None] * self.num_classes, "videos_released": 0}
        written = read_predictions(path, self.num_classes)
        labels = [kept.released_labels for kept in videos.values()]
        scores = [written[video][: len(rows)] for video, rows in zip(videos, labels, strict=True)]
        ap, mean = frame_ap(scores, labels)
        return {"mAP_released": mean, "AP_released": _nullable(ap), "videos_released": len(videos)}

    def _all_frames(self, videos: dict[str, VideoScores]) -> dict[str, object]:
        if not videos:
            return {"mAP_frames": None, "AP_frames": [None] * self.num_classes}
        ap, mean = frame_ap([kept.frames for kept in videos.values()], [kept.frame_labels for kept in videos.values()])
        return {"mAP_frames": mean, "AP_frames": _nullable(ap)}

    def _save_frames(self, videos: dict[str, VideoScores], path: Path) -> None:
        """Frame k (from 0) of n is at k/n of the video's length."""
        steps = {}
        for video, kept in videos.items():
            if video in self.truth:
                seconds = np.arange(len(kept.frames)) * self.truth[video].length / kept.num_frames
                steps[video] = Steps(kept.frames, seconds)
        write_steps(path, steps)


def _nullable(ap: np.ndarray) -> list[float | None]:
    """AP (C,) as JSON takes it: None for NaN."""
    return [None if np.isnan(value) else float(value) for value in ap]
