"""Which frames of a video are scored, and AP over frames as the published code prints it (rule "released").

The published stage 3 takes every int(L/25)-th of the L valid frames from the second one on, the first 25 of them;
its stage 1 takes all L. In both a class without positives counts as AP 0.
"""

from collections.abc import Sequence

import numpy as np

from eval.average_precision import average_precision
from eval.submission import FRAMES_PER_VIDEO


def released_frames(num_frames: int) -> np.ndarray:
    """Indices (F,) of the frames that rule "released" scores among L = `num_frames` valid ones: [1 :: int(L/25)][:25].

    F = 25 for L > 25. The published rule fails below 25 frames (a step of 0): here the step is at least 1, which
    leaves frames 1..L-1, and a single frame is scored itself, so that every video counts.
    """
    if num_frames < 1:
        raise ValueError(f"a video needs at least one valid frame, not {num_frames}")
    if num_frames == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(1, num_frames, max(1, num_frames // FRAMES_PER_VIDEO))[:FRAMES_PER_VIDEO]


def official_frames(video_frames: int, num_frames: int) -> np.ndarray:
    """Indices (25,) of the label frames that stand for the official frames 1..25.

    Official frame j is at (j-1)/25 of the video, its frame floor((j-1) n / 25) with n = `video_frames`. The labels
    end after L = `num_frames` <= n frames (10 floor(n/10)): the last of them stands for what is beyond.
    """
    if video_frames < 1 or num_frames < 1:
        raise ValueError(f"a video needs at least one frame, not {video_frames} with {num_frames} valid")
    return np.minimum(np.arange(FRAMES_PER_VIDEO) * video_frames // FRAMES_PER_VIDEO, num_frames - 1)


def frame_ap(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """AP (C,) over the frames of all videos, scores and labels a (F_i,C) each, and their mean.

    A class without positives has AP NaN and counts as 0 in the mean, as in the published code.
    """
    ap = average_precision(list(scores), list(labels))
    return ap, float(np.nan_to_num(ap).mean())
