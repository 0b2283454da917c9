"""Average precision per class, exact and stable: ties keep their row order, as the official Charades evaluation does.

Per class, rows are ranked by descending score. With the positives at ranks r_1 < r_2 < ... < r_P, the precision at
the k-th is k / r_k and AP = mean_k k / r_k. So only the positives' ranks are needed, and one sort of integers gives
them: score, row and label are packed into one uint64,

    bits 63..32  the score's float32 bits, mapped so that a higher score is a smaller integer
    bits 31..1   the row, which decides between equal scores
    bit  0       the label

whose ascending values are the ranking. numpy sorts such values with vector instructions and without the interpreter
lock, an order of magnitude faster than a stable argsort of every class.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.errors import InputError

_CLASSES_PER_TASK = 16  # 16 float32 columns are a cache line of the row-major scores
_VALUES_PER_TASK = 1 << 23  # keeps a task's packed keys within 64 MiB
_MAX_THREADS = 8


def average_precision(
    scores: np.ndarray | Sequence[np.ndarray], labels: np.ndarray | Sequence[np.ndarray]
) -> np.ndarray:
    """AP (C,) float64 of `scores` (N,C) against `labels` (N,C) 0/1; NaN for a class without positives.

    Both may also be lists of blocks (N_i,C), one a video, which are ranked together without being joined first.
    -inf (no prediction) and +inf are legal scores, 0.0 and -0.0 are equal, and a NaN score raises InputError.
    """
    scores, labels = _blocks(scores), _blocks(labels)
    num_rows, num_classes = _common_shape(scores, labels)

    def task(first: int) -> np.ndarray:
        classes = slice(first, min(first + width, num_classes))
        return _class_ap(_columns(scores, classes), _columns(labels, classes), first)

    width = max(1, min(_CLASSES_PER_TASK, _VALUES_PER_TASK // max(1, num_rows)))
    with ThreadPoolExecutor(_num_threads()) as pool:
        return np.concatenate([np.empty(0), *pool.map(task, range(0, num_classes, width))])


def _blocks(values: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """A list of 2-D arrays, whether one array or several were given."""
    return [values] if isinstance(values, np.ndarray) and values.ndim == 2 else [np.asarray(v) for v in values]


def _common_shape(scores: list[np.ndarray], labels: list[np.ndarray]) -> tuple[int, int]:
    """(N, C) of all blocks together, after checking that scores and labels agree."""
    shapes = [block.shape for block in scores]
    if not shapes or [block.shape for block in labels] != shapes:
        raise ValueError(f"scores {shapes[:3]} and labels {[y.shape for y in labels][:3]} must have equal shapes (N,C)")
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise ValueError(f"scores must be (N,C) with one C: {shapes[:3]}")
    num_rows = sum(shape[0] for shape in shapes)
    if num_rows >= 1 << 31:
        raise ValueError(f"{num_rows} rows do not fit the 31 bits of a packed row number")
    return num_rows, shapes[0][1]


def _num_threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MAX_THREADS, available)


def _columns(blocks: list[np.ndarray], classes: slice) -> np.ndarray:
    """The blocks' columns `classes`, class-major and contiguous: (c,N)."""
    dtype = np.result_type(*{block.dtype for block in blocks})
    columns = np.empty((classes.stop - classes.start, sum(len(block) for block in blocks)), dtype)
    row = 0
    for block in blocks:
        columns[:, row : row + len(block)] = block[:, classes].T
        row += len(block)
    return columns


def _class_ap(scores: np.ndarray, labels: np.ndarray, first_class: int) -> np.ndarray:
    """AP (c,) of class-major `scores` and `labels`, both (c,N); `first_class` is only for the error."""
    broken = np.isnan(scores).any(axis=1)
    if broken.any():
        raise InputError(f"the scores of class {first_class + int(np.argmax(broken))} hold NaN, which has no rank")

    keys = _packed(scores, labels)
    keys.sort(axis=1)
    may_round = not np.can_cast(scores.dtype, np.float32)
    ap = np.full(len(keys), np.nan)
    for c, ranked in enumerate(keys):
        positive = (ranked & 1).astype(bool)
        if may_round and _rounding_made_ties(ranked, scores[c]):
            positive = labels[c][np.argsort(-scores[c], kind="stable")]
        ranks = np.flatnonzero(positive) + 1
        if len(ranks):
            ap[c] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return ap


def _packed(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """uint64 (c,N) whose ascending order is the ranking; the module's docstring gives the layout."""
    with np.errstate(over="ignore"):  # beyond float32: becomes inf, and _rounding_made_ties sees to it
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32)  # adding 0 turns -0.0 into 0.0
    # Floats compare as sign and magnitude. Keeping a negative's bits and inverting the magnitude of the others makes
    # unsigned order the descending order of scores.
    descending = bits ^ (~(bits >> 31) & 0x7FFFFFFF)
    rows = np.arange(scores.shape[1], dtype=np.uint64) << np.uint64(1)
    keys = descending.view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= rows
    keys |= labels != 0
    return keys


def _rounding_made_ties(ranked: np.ndarray, scores: np.ndarray) -> bool:
    """Whether different `scores` (N,) share a float32 among the sorted keys `ranked` (N,): then their order is lost."""
    rows = (ranked & np.uint64(0xFFFFFFFF)) >> np.uint64(1)
    rounded, exact = ranked >> np.uint64(32), scores[rows]
    return bool(np.any((rounded[1:] == rounded[:-1]) & (exact[1:] != exact[:-1])))
