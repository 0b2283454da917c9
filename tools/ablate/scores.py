"""Score and cost of each variant of `tools.ablate`, as a row of estimates.

mAP uses rule "official" and the predictions of stage 3's best validation. Each mean over seeds has two 95% intervals:

    over seeds    Student's t over the seeds' mAP: other initial weights and another order of the same data
    over videos   basic bootstrap over the test videos, of the mean over seeds: other videos, the same networks

Differences from Coarse-Fine are paired by seed (same Fine stream, features and clips) and by resample. Multiply-adds
are for one evaluated video as long as the fine features (T = T' = data.fine_frames). They include the Fine stream if
the variant reads its features, as in figure 1 of the paper.
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
    """A mean over seeds in percent, with 95% intervals. `over_seeds` is None for a single seed."""

    mean: float
    over_seeds: tuple[float, float] | None
    over_videos: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The results of one variant."""

    variant: str
    network: str
    multiply_adds: int
    parameters: int
    by_seed: list[float]  # mAP in percent
    score: Estimate
    minus_reference: Estimate | None
    groups: dict[str, Estimate]  # of a generated dataset: classes that need context, and the others
    seconds: Seconds  # of stage 3, over all seeds

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
    """Estimate mAP over some classes, or its difference from `base`, paired by seed."""
    means, resamples = map(np.array, zip(*(seed.mean(classes) for seed in seeds), strict=True))  # (S,), (S,B)
    if base is not None:
        others, other_resamples = zip(*(seed.mean(classes) for seed in base), strict=True)
        means, resamples = means - others, resamples - other_resamples
    low, high = basic_interval(means.mean(), resamples.mean(axis=0))
    return Estimate(float(means.mean()), t_interval(means), (float(low), float(high)))


def t_interval(values: np.ndarray) -> tuple[float, float] | None:
    """The 95% Student's t interval of the mean of independent values (n,); None for a single value."""
    n = len(values)
    if n < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean() - half), float(values.mean() + half)


def rows(
    variants: Mapping[str, Sequence[Config]], truth: Mapping[str, Truth], seconds: Mapping[str, Seconds]
) -> Iterator[Row]:
    """Yield a row per variant, in order. All predictions are scored on the same resamples of the videos."""
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
