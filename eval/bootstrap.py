"""Bootstrap over videos: how far average precision would move with other videos of the same kind.

A resample draws as many videos as there are, with replacement (videos and not frames, since a video's frames depend
on one another). It is scored as the data set in which every video stands as often as it was drawn, the copies one
after another in the video's place: ties keep that order, as in `eval.average_precision`.

Copies do not change which row comes before which, so rows are ranked once. Ranked rows of equal score and equal
video form a group, which a video drawn m times brings m times in a row. With `before` rows and `hits` positives drawn
ahead of a group of k rows and p positives, its j-th positive, in row i of the group, has in the group's c-th copy
(from 0) the precision

    (hits + c p + j) / (before + c k + i)

and AP is the mean over all copies of all positives, exactly that of the repeated data set. `before`, for all groups
with positives and all resamples, is one sparse product (which video's rows lie between two such groups) and a
running sum.

The AP of few videos is on average higher than that of many, and resamples, in which videos repeat, show the same: their
values lie to the right of the data set's own. Against the spread of one class that is little, and percentile intervals
serve. A mean over classes has a small spread and keeps the shift, so it has a basic interval, which is the percentile
interval mirrored at the value. In 60 simulated test sets of Charades' size (157 classes, 9 to 370 videos each), the AP
over endlessly many videos lay in 92% of the percentile and 89% of the basic intervals of a class, for mAP in 41% and
77%, for the difference of two detectors' mAP in 88% and 93%. Sources: Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13 (percentile); Davison & Hinkley, Bootstrap Methods and their Application, 1997, chapter 5
(basic).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array

from eval.average_precision import descending

_RESAMPLES_AT_ONCE = 128  # a count matrix of 1,863 videos then is 2 MB: it stays in the processor's cache
_VALUES_AT_ONCE = 1 << 22  # of a (positives, resamples) block: 32 MiB
LEVEL = 0.95


def draw_counts(num_videos: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each video: (V,B) float64 whole numbers, every column sums to V."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=resamples).T.astype(np.float64)


def resampled_ap(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], counts: np.ndarray
) -> Iterator[np.ndarray]:
    """AP (B,) of class 0, 1, ... in all resamples; NaN where a resample has no positive of the class.

    scores, labels: one (F_v,C) for each of V videos, ranked together; no NaN. counts: (V,B), see `draw_counts`.
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
    """(low, high), 95%, over the first axis of a statistic's resamples (B,...), of those that are not NaN."""
    tail = (1 - LEVEL) / 2
    defined = ~np.isnan(values).all(axis=0)
    ends = np.full((2, *values.shape[1:]), np.nan)
    ends[:, defined] = np.nanquantile(values[:, defined], [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


def basic_interval(value: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), 95%, of a statistic (...) with resamples (B,...): the percentile interval mirrored at the value."""
    low, high = percentile_interval(values)
    return 2 * value - high, 2 * value - low


class Sampled(NamedTuple):
    """A statistic of the videos, and its values in the resamples; fractions, NaN where undefined."""

    value: np.ndarray  # () or (C,)
    resamples: np.ndarray  # (B,) or (B,C)
    is_mean: bool = False  # over classes
    is_difference: bool = False

    def minus(self, other: Self) -> Self:
        """The paired difference: resample by resample, since all drew the same videos."""
        return self._replace(
            value=self.value - other.value, resamples=self.resamples - other.resamples, is_difference=True
        )

    def of_class(self, c: int) -> Self:
        return self._replace(value=self.value[c], resamples=self.resamples[:, c])

    def mean(self, classes: Sequence[int]) -> tuple[float, np.ndarray]:
        """The mean over some classes in percent: the value, and those of the resamples (B,)."""
        value, resamples = self.value[list(classes)], self.resamples[:, list(classes)]
        return 100 * float(np.nanmean(value)), 100 * np.nanmean(resamples, axis=1)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), 95%: of a mean over classes a basic interval, of a class a percentile one."""
        if not self.is_mean:
            return percentile_interval(self.resamples)
        low, high = basic_interval(self.value, self.resamples)
        lowest = -1 if self.is_difference else 0
        return np.clip(low, lowest, 1), np.clip(high, lowest, 1)


class _Ranking(NamedTuple):
    """The ranked rows of one class: Q groups with positives, P positives in them, V videos."""

    gaps: csr_array  # (Q,V) rows of each video between a group and the one before
    video: np.ndarray  # (Q,) of each group
    rows: np.ndarray  # (Q,) k
    positives: np.ndarray  # (Q,) p
    group: np.ndarray  # (P,) of each positive, ascending
    row: np.ndarray  # (P,) i, its row in the group, from 1
    number: np.ndarray  # (P,) j, its number among the group's positives, from 1


def _rank(scores: np.ndarray, labels: np.ndarray, videos: np.ndarray, num_videos: int) -> _Ranking | None:
    """Rank the rows (N,) of one class; None where none is positive. `videos` (N,) is ascending."""
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
    while len(again):  # few are drawn a second time, fewer a third
        positive, resample = np.divmod(again, counts.shape[1])
        further_hits = hits[again] + copy * ranking.positives[group[positive]]
        further_rank = rank[again] + copy * ranking.rows[group[positive]]
        precision += np.bincount(resample, further_hits / further_rank, counts.shape[1])
        copy += 1
        again = again[copies[again] > copy]
    with np.errstate(invalid="ignore"):  # no positive drawn: 0 / 0
        return precision / drawn[-1]
