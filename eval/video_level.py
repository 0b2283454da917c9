"""Video-level average precision (`Charades_v1_classify`), rule "video level": which activities occur, whenever it is.

A video's score of a class is the maximum of its frames' scores, its label is 1 iff an action of the class is
annotated, whatever its times. AP per class over all videos of the ground truth; mAP is the plain mean over classes,
undefined where one has no positives. A video without a prediction scores -inf, and so does one without any action, as
in the Python form of the rule by the dataset's authors (`charades_map`, github.com/gsig/charades-algorithms,
pytorch/utils/map.py); ties rank in the ground truth's order. A submission to the official script holds one line
`id score score ...` a video; here the scores come from the predictions of frames, such as `official.txt`. The rule is
tested against a plain form of itself; there was no output of the official script to compare with.
"""

from collections.abc import Mapping

import numpy as np

from eval import charades_localize
from eval.charades_localize import Truth


def rows(
    predictions: Mapping[str, np.ndarray], truth: Mapping[str, Truth], num_classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and labels, (1,C) for each video of `truth`, as the rule ranks them.

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
