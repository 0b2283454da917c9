"""Average precision per class, exact and stable: ties keep their row order, as in the official Charades evaluation.

For each class, rows are ranked by descending score. With positives at ranks r_1 < r_2 < ... < r_P, the precision at
the k-th positive is k / r_k, and AP = mean_k k / r_k.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

_CLASSES_AT_ONCE = 16  # 16 float32 columns of the row-major scores fill a cache line


def average_precision(
    scores: np.ndarray | Sequence[np.ndarray], labels: np.ndarray | Sequence[np.ndarray]
) -> np.ndarray:
    """AP (C,) float64 of `scores` (N,C) against `labels` (N,C) 0/1; NaN for a class without positives.

    Both may also be lists of blocks (N_i,C), one per video, which are ranked together.
    Scores may be -inf (no prediction) or +inf; 0.0 equals -0.0; NaN raises InputError.
    """
    scores, labels = _blocks(scores), _blocks(labels)
    shapes = [block.shape for block in scores]
    of_labels = [block.shape for block in labels]
    if shapes != of_labels or len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"scores {shapes[:3]} and labels {of_labels[:3]} must have equal shapes (N,C) with one C")
    ap = np.full(shapes[0][1], np.nan)
    for first in range(0, len(ap), _CLASSES_AT_ONCE):
        classes = slice(first, first + _CLASSES_AT_ONCE)
        columns = (np.concatenate([block[:, classes].T for block in blocks], axis=1) for blocks in (scores, labels))
        for c, (column, positive) in enumerate(zip(*columns, strict=True), first):
            if np.isnan(column).any():
                raise InputError(f"the scores of class {c} contain NaN")
            ranks = np.flatnonzero(positive[descending(column)]) + 1
            if len(ranks):
                ap[c] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return ap


def descending(scores: np.ndarray) -> np.ndarray:
    """np.argsort(-scores, kind="stable") for scores (N,) without NaN, five times faster.

    Instead of comparing floats, this sorts their bits as integers, 16 at a time from the lowest, for which numpy uses
    radix sort.
    """
    width = 32 if np.can_cast(scores.dtype, np.float32) else 64
    values = scores.astype(f"f{width // 8}") * -1 + 0  # + 0 turns -0.0 into 0.0
    bits: NDArray[np.int64] = values.view(f"i{width // 8}").astype(np.int64)
    bits ^= (bits >> 63) & (1 << (width - 1)) - 1  # floats are stored as sign and magnitude
    order = np.arange(len(bits))
    for shift in range(0, width, 16):
        digits = (bits >> shift).astype(np.int16 if shift + 16 == width else np.uint16)  # the last has the sign
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def _blocks(values: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Convert one array or a sequence of arrays to a list of 2-D arrays."""
    return [values] if isinstance(values, np.ndarray) and values.ndim == 2 else [np.asarray(v) for v in values]
