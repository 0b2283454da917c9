"""Bootstrap over videos: confidence intervals of average precision for the choice of test videos.

A resample draws as many videos as the dataset has, with replacement. (Videos rather than frames, since the frames of a
video are dependent.) It is scored as a dataset in which every video is repeated as often as it was drawn, with adjacent
copies. Ties keep this order, as in `eval.average_precision`.

Copies do not change the order of rows, so rows are ranked only once. Ranked rows with equal score and video form a
group, which is repeated m times in a row if the video is drawn m times. Let `before` rows and `hits` positives be drawn
ahead of a group of k rows and p positives. In the group's c-th copy (from 0), its j-th positive, in row i of the group,
has the precision

    (hits + c p + j) / (before + c k + i)

and AP is the mean over all copies of all positives, which is exactly the AP of the repeated dataset. For all groups
with positives and all resamples, `before` is computed by a sparse product (each video's rows between two such groups)
and a cumulative sum.

The AP of few videos is higher on average than that of many. Resamples, which repeat videos, show the same bias: their
values tend to exceed that of the dataset. For a single class the bias is small compared to the spread, and percentile
intervals suffice. A mean over classes has a smaller spread but the same bias, so it uses a basic interval: the
percentile interval mirrored at the value. In 60 simulated test sets of Charades' size (157 classes, 9 to 370 videos
each), the coverage of the AP over infinitely many videos was 92% (percentile) and 89% (basic) for a class, 41% and 77%
for mAP, and 88% and 93% for the difference of two detectors' mAP. Sources: Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13 (percentile); Davison & Hinkley, Bootstrap Methods and their Application, 1997, chapter 5
(basic).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array

from eval.average_precision import descending

_RESAMPLES_AT_ONCE = 128  # the counts of 1,863 videos take 2 MB and stay in the CPU cache
_VALUES_AT_ONCE = 1 << 22  # in a (positives, resamples) block: 32 MiB
LEVEL = 0.95


def draw_counts(num_videos: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each video: (V,B) integers as float64; every column sums to V."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=resamples).T.astype(np.float64)


def resampled_ap(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], counts: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the AP (B,) of class 0, 1, ... in all resamples; NaN if a resample has no positives of the class.

    scores, labels: (F_v,C) for each of V videos, ranked together, without NaN. counts: (V,B), see `draw_counts`.
    """
    if not len(scores) == len(labels) == len(counts):
        raise ValueError(f"{len(scores)} videos' scores, {len(labels)} videos' labels, counts of {len(counts)} videos")
    resamples = counts.shape[1]
    videos = np.repeat(np.arange(len(scores), dtype=np.int32), [len(rows) for rows in scores])
    for c in range(scores[0].shape[1]):
        column, positive = (np.concatenate([rows[:, c] for rows in blocks]) for blocks in (scores, labels))
        ranking = _rank(column, positive, videos, len(counts))
        if ranking is None:
            yield np.full(resamples, np.nan)
            continue
        width = max(1, min(_RESAMPLES_AT_ONCE, _VALUES_AT_ONCE // len(ranking.group)))
        parts = (np.ascontiguousarray(counts[:, first : first + width]) for first in range(0, resamples, width))
        yield np.concatenate([_part_ap(ranking, part) for part in parts])


def percentile_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval (low, high) over the first axis of resamples (B,...), ignoring NaN."""
    tail = (1 - LEVEL) / 2
    defined = ~np.isnan(values).all(axis=0)
    ends = np.full((2, *values.shape[1:]), np.nan)
    ends[:, defined] = np.nanquantile(values[:, defined], [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


def basic_interval(value: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval (low, high) of a statistic (...) with resamples (B,...): the percentile interval mirrored at it."""
    low, high = percentile_interval(values)
    return 2 * value - high, 2 * value - low


class Sampled(NamedTuple):
    """A statistic of the videos and its values in the resamples, as fractions; NaN if undefined."""

    value: np.ndarray  # () or (C,)
    resamples: np.ndarray  # (B,) or (B,C)
    is_mean: bool = False  # over classes
    is_difference: bool = False

    def minus(self, other: Self) -> Self:
        """The paired difference of statistics with the same resamples."""
        return self._replace(
            value=self.value - other.value, resamples=self.resamples - other.resamples, is_difference=True
        )

    def of_class(self, c: int) -> Self:
        return self._replace(value=self.value[c], resamples=self.resamples[:, c])

    def mean(self, classes: Sequence[int]) -> tuple[float, np.ndarray]:
        """The mean over `classes` in percent: its value, and its values in the resamples (B,)."""
        value, resamples = self.value[list(classes)], self.resamples[:, list(classes)]
        return 100 * float(np.nanmean(value)), 100 * np.nanmean(resamples, axis=1)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95% interval (low, high): basic for a mean over classes, percentile for a single class."""
        if not self.is_mean:
            return percentile_interval(self.resamples)
        low, high = basic_interval(self.value, self.resamples)
        lowest = -1 if self.is_difference else 0
        return np.clip(low, lowest, 1), np.clip(high, lowest, 1)


class _Ranking(NamedTuple):
    """The ranked rows of one class: Q groups with positives, P positives in them, V videos."""

    gaps: csr_array  # (Q,V) rows of each video between a group and the previous one
    video: np.ndarray  # (Q,) of each group
    rows: np.ndarray  # (Q,) k
    positives: np.ndarray  # (Q,) p
    group: np.ndarray  # (P,) of each positive, ascending
    row: np.ndarray  # (P,) i, its row in the group, from 1
    number: np.ndarray  # (P,) j, its index among the group's positives, from 1


def _rank(scores: np.ndarray, labels: np.ndarray, videos: np.ndarray, num_videos: int) -> _Ranking | None:
    """Rank the rows (N,) of one class; None without positives. `videos` (N,) must be ascending."""
    order = descending(scores)
    scores, videos = scores[order], videos[order]
    hits = np.flatnonzero(labels[order])
    if not len(hits):
        return None
    begins = np.r_[True, (scores[1:] != scores[:-1]) | (videos[1:] != videos[:-1])]
    first = np.flatnonzero(begins)
    chosen, group, positives = np.unique(np.cumsum(begins)[hits] - 1, return_inverse=True, return_counts=True)
    start = first[chosen]
    gaps = csr_array((np.ones(start[-1]), videos[: start[-1]], np.r_[0, start]), shape=(len(start), num_videos))
    gaps.sum_duplicates()
    return _Ranking(
        gaps=gaps,
        video=videos[start],
        rows=np.diff(np.r_[first, len(scores)])[chosen],
        positives=positives,
        group=group,
        row=hits - start[group] + 1,
        number=np.arange(len(hits)) - (np.cumsum(positives) - positives)[group] + 1,
    )


def _part_ap(ranking: _Ranking, counts: np.ndarray) -> np.ndarray:
    """AP (b,) in the resamples of `counts` (V,b)."""
    group = ranking.group
    copies = counts[ranking.video]  # (Q,b)
    drawn = np.cumsum(ranking.positives[:, None] * copies, axis=0)
    before = np.cumsum(ranking.gaps @ counts, axis=0)
    hits = (drawn - ranking.positives[:, None] * copies)[group] + ranking.number[:, None]  # (P,b)
    rank = before[group] + ranking.row[:, None]
    copies = copies[group]

    precision = np.where(copies > 0, hits / rank, 0).sum(axis=0)
    hits, rank, copies, copy = hits.ravel(), rank.ravel(), copies.ravel(), 1
    again = np.flatnonzero(copies > copy)
    while len(again):  # few are drawn twice, even fewer three times
        positive, resample = np.divmod(again, counts.shape[1])
        further_hits = hits[again] + copy * ranking.positives[group[positive]]
        further_rank = rank[again] + copy * ranking.rows[group[positive]]
        precision += np.bincount(resample, further_hits / further_rank, counts.shape[1])
        copy += 1
        again = again[copies[again] > copy]
    with np.errstate(invalid="ignore"):  # no positive drawn: 0 / 0
        return precision / drawn[-1]
