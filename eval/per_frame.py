"""The scored frames of a video, and the per-frame AP printed by the published code (rule "released").

The published stage 3 scores every int(L/25)-th of the L valid frames, starting at the second one, up to 25 frames;
stage 1 scores all L frames. In both, classes without positives count as AP 0.
"""

from collections.abc import Sequence

import numpy as np

from eval.average_precision import average_precision
from eval.submission import FRAMES_PER_VIDEO


def released_frames(num_frames: int) -> np.ndarray:
    """Indices (F,) of the frames scored by rule "released", of L = `num_frames` valid ones: [1 :: int(L/25)][:25].

    F = 25 for L > 25. The published rule fails for fewer than 25 frames (step 0). Here, the step is at least 1, which
    selects frames 1..L-1, and a single frame is scored itself, so that every video is included.
    """
    if num_frames < 1:
        raise ValueError(f"a video needs at least one valid frame, not {num_frames}")
    if num_frames == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(1, num_frames, max(1, num_frames // FRAMES_PER_VIDEO))[:FRAMES_PER_VIDEO]


def official_frames(video_frames: int, num_frames: int) -> np.ndarray:
    """Indices (25,) of the label frames used as the official frames 1..25.

    Official frame j is at (j-1)/25 of the video, its frame floor((j-1) n / 25) with n = `video_frames`. Labels exist
    for L = `num_frames` <= n frames (10 floor(n/10)); the last one is used beyond their end.
    """
    if video_frames < 1 or num_frames < 1:
        raise ValueError(f"a video needs at least one frame, not {video_frames} with {num_frames} valid")
    return np.minimum(np.arange(FRAMES_PER_VIDEO) * video_frames // FRAMES_PER_VIDEO, num_frames - 1)


def frame_ap(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """AP (C,) over the frames of all videos, with scores and labels (F_i,C) per video, and the mean AP.

    Classes without positives have AP NaN and count as 0 in the mean, as in the published code.
    """
    ap = average_precision(list(scores), list(labels))
    return ap, float(np.nan_to_num(ap).mean())
