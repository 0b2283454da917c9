"""Video-level average precision (`Charades_v1_classify`), rule "video level": which activities occur in a video.

The score of a video for a class is the maximum over its frames; its label is 1 iff an action of the class is annotated,
at any time. AP is computed per class over all videos of the ground truth; mAP is the mean over classes, undefined if
one has no positives. Videos without predictions score -inf, and so do videos without actions, as in the Python version
by the authors of the dataset (`charades_map`, github.com/gsig/charades-algorithms, pytorch/utils/map.py). Ties are
ranked in the order of the ground truth. The official script expects one line `id score score ...` per video; here,
scores are computed from per-frame predictions, such as `official.txt`. The rule is tested against a plain
implementation; no output of the official script was available for comparison.
"""

from collections.abc import Mapping

import numpy as np

from eval import charades_localize
from eval.charades_localize import Truth


def rows(
    predictions: Mapping[str, np.ndarray], truth: Mapping[str, Truth], num_classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and labels, (1,C) for each video of `truth`, in ranking order for ties.

    predictions: {video id: (F,C)}, F >= 1.
    """
    of_frames, _ = charades_localize.rows(predictions, truth, num_classes)
    absent = np.full((1, num_classes), -np.inf)
    scores, labels = [], []
    for frames, (actions, _) in zip(of_frames, truth.values(), strict=True):
        scores.append(frames.max(axis=0, keepdims=True) if actions else absent)
        labels.append(np.zeros((1, num_classes), bool))
        labels[-1][0, [name for name, _, _ in actions]] = True
    return scores, labels
