"""How good each variant of `tools.ablate` is and what it costs: a row of estimates.

mAP is by rule "official", of the predictions that stage 3 has kept: those of its best validation. Two intervals stand
beside each mean over the seeds, both of 95%:

    over seeds    Student's t from the seeds' mAP: other weights at the start and another order of the same data
    over videos   basic bootstrap over the test videos, of the mean over the seeds: other videos, the same networks

Differences to Coarse-Fine are paired, by seed (the same Fine stream, features and clips) and by resample. Multiply-adds
are those of one evaluated video as long as the fine features (T = T' = data.fine_frames), the Fine stream included
where a variant reads its features: what the paper's figure 1 counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from configs.schema import Config
from eval import charades_localize
from eval.average_precision import average_precision
from eval.bootstrap import LEVEL, Sampled, basic_interval, draw_counts, resampled_ap
from eval.charades_localize import Truth, read_predictions
from tools.ablate.jobs import Seconds
from tools.complexity.count import count_coarse, count_fine
from tools.runs import context_classes

REFERENCE = "coarse_fine"
TITLES = {
    "x3d": "X3D",
    "coarse_fine": "Coarse-Fine",
    "fine_fine": "Fine-Fine",
    "stride": "stride pooling",
    "no_fusion": "no fusion",
    "uniform": "uniform weights",
}
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds in percent, and its 95% intervals; None with one seed."""

    mean: float
    over_seeds: tuple[float, float] | None
    over_videos: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One variant."""

    variant: str
    network: str
    multiply_adds: int
    parameters: int
    by_seed: list[float]  # mAP in percent
    score: Estimate
    minus_reference: Estimate | None
    groups: dict[str, Estimate]  # of the generated dataset's classes that need context, and the others
    seconds: Seconds  # of stage 3, all seeds together

    @property
    def title(self) -> str:
        return TITLES.get(self.variant, self.variant)


def score_run(config: Config, truth: Mapping[str, Truth], counts: np.ndarray) -> Sampled:
    C = config.data.num_classes
    predictions = read_predictions(config.run_dir / "coarse" / "predictions" / "official.txt", C)
    scores, labels = charades_localize.rows(predictions, truth, C)
    resamples = np.stack(list(resampled_ap(scores, labels, counts)), axis=1)
    return Sampled(average_precision(scores, labels), resamples)


def estimate(seeds: Sequence[Sampled], classes: Sequence[int], base: Sequence[Sampled] | None = None) -> Estimate:
    """Of mAP over some classes; with `base`, of its difference to that one's, seed by seed."""
    means, resamples = map(np.array, zip(*(seed.mean(classes) for seed in seeds), strict=True))  # (S,), (S,B)
    if base is not None:
        others, other_resamples = zip(*(seed.mean(classes) for seed in base), strict=True)
        means, resamples = means - others, resamples - other_resamples
    low, high = basic_interval(means.mean(), resamples.mean(axis=0))
    return Estimate(float(means.mean()), t_interval(means), (float(low), float(high)))


def t_interval(values: np.ndarray) -> tuple[float, float] | None:
    """The 95% interval of the mean of some independent values (n,), by Student's t; None for one."""
    n = len(values)
    if n < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean() - half), float(values.mean() + half)


def rows(
    variants: Mapping[str, Sequence[Config]], truth: Mapping[str, Truth], seconds: Mapping[str, Seconds]
) -> Iterator[Row]:
    """A row for each variant, in their order; the predictions of every seed in the same resamples of the videos."""
    counts = draw_counts(len(truth), RESAMPLES, seed=0)
    scored = {name: [score_run(config, truth, counts) for config in configs] for name, configs in variants.items()}
    base = scored.get(REFERENCE)
    for variant, (config, *_) in variants.items():
        model, seeds, everything = config.model, scored[variant], range(config.data.num_classes)
        context = context_classes(Path(config.data.annotations))
        groups = {} if context is None else {"context": context, "others": [c for c in everything if c not in context]}
        weights = f"gaussian {model.gaussian_scale:g}" if model.alignment == "gaussian" else model.alignment
        frames = config.data.fine_frames
        costs = [count_coarse(config, frames, frames)]
        if model.fusion != "none":
            costs.append(count_fine(config, frames))
        yield Row(
            variant=variant,
            network=f"{model.pool}, {model.fusion}" + (f", {weights}" if model.fusion != "none" else ""),
            multiply_adds=sum(count.total for count in costs),
            parameters=sum(sum(count.parameters.values()) for count in costs),
            by_seed=[seed.mean(everything)[0] for seed in seeds],
            score=estimate(seeds, everything),
            minus_reference=None if base is None or variant == REFERENCE else estimate(seeds, everything, base),
            groups={name: estimate(seeds, classes) for name, classes in groups.items()},
            seconds=seconds[variant],
        )
