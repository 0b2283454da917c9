"""What `tools.ablate` writes: a table in Markdown, everything in JSON, scores as CSV, and a picture.

mAP is by rule "official", of the predictions that stage 3 has kept: those of its best validation. Two intervals stand
beside each mean over the seeds, both of 95%:

    over seeds    Student's t from the seeds' mAP: other weights at the start and another order of the same data
    over videos   basic bootstrap over the test videos, of the mean over the seeds: other videos, the same networks

Differences to Coarse-Fine are paired, by seed (the same Fine stream, features and clips) and by resample. Multiply-adds
are those of one evaluated video as long as the fine features (T = T' = data.fine_frames), the Fine stream included
where a variant reads its features: what the paper's figure 1 counts.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from common.files import write_text, written_whole
from configs.schema import Config, Model
from datasets.demo.__main__ import SUMMARY
from datasets.kinds import KINDS
from eval import charades_localize
from eval.average_precision import average_precision
from eval.bootstrap import LEVEL, basic_interval, draw_counts, resampled_ap
from eval.charades_localize import Truth, read_ground_truth, read_predictions
from tools.ablate.jobs import Seconds
from tools.complexity.count import count_coarse, count_fine

SUFFIXES = (".md", ".json", ".csv", ".png")
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


class Sampled(NamedTuple):
    """AP as a fraction: of each class (C,), and in each resample of the test videos (B,C); NaN without positives."""

    AP: np.ndarray
    resamples: np.ndarray

    def mean(self, classes: Sequence[int]) -> tuple[float, np.ndarray]:
        """mAP in percent over some classes: the value, and those of the resamples (B,)."""
        AP, resamples = self.AP[list(classes)], self.resamples[:, list(classes)]
        return 100 * float(np.nanmean(AP)), 100 * np.nanmean(resamples, axis=1)


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
    groups: dict[str, Estimate]  # of the classes that the generated dataset tells apart
    seconds: Seconds  # of stage 3, all seeds together

    @property
    def title(self) -> str:
        return TITLES.get(self.variant, self.variant)


# --- scores -----------------------------------------------------------------------------------------------------------


def score_line(stage: Path) -> str:
    """`mAP 12.3%` of a stage's folder."""
    score = json.loads((stage / "metrics.json").read_text(encoding="utf-8"))["mAP_official_defined"]
    return "mAP undefined" if score is None else f"mAP {100 * score:.2f}%"


def read_truth(config: Config) -> dict[str, Truth]:
    """The test videos that the runs were scored on."""
    data = config.data
    if data.ground_truth:
        return read_ground_truth(Path(data.ground_truth), data.num_classes)
    tested = KINDS[data.kind].load(data.annotations, data.num_classes).subset("testing")
    return {video.id: Truth(list(video.actions), video.duration) for video in tested}


def score(variants: Mapping[str, Sequence[Config]], truth: Mapping[str, Truth]) -> dict[str, list[Sampled]]:
    """Of every variant and seed, all in the same resamples."""
    counts = draw_counts(len(truth), RESAMPLES, seed=0)
    return {variant: [score_run(config, truth, counts) for config in configs] for variant, configs in variants.items()}


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


def read_groups(config: Config) -> dict[str, list[int]]:
    """The classes of the generated dataset that need context, and the others; none of another dataset."""
    summary = Path(config.data.annotations).with_name(SUMMARY)
    if not summary.is_file():
        return {}
    context = json.loads(summary.read_text(encoding="utf-8"))["context_classes"]
    return {"context": context, "others": [c for c in range(config.data.num_classes) if c not in context]}


def describe(model: Model) -> str:
    """Pooling, fusion, and with it the weights that align the streams."""
    weights = f"gaussian {model.gaussian_scale:g}" if model.alignment == "gaussian" else model.alignment
    return f"{model.pool}, {model.fusion}" + (f", {weights}" if model.fusion != "none" else "")


def cost(config: Config) -> tuple[int, int]:
    """Multiply-adds of one evaluated video, and parameters, of all that the variant needs."""
    frames = config.data.fine_frames
    counts = [count_coarse(config, frames, frames)]
    if config.model.fusion != "none":
        counts.append(count_fine(config, frames))
    return sum(count.total for count in counts), sum(sum(count.parameters.values()) for count in counts)


def rows(
    variants: Mapping[str, Sequence[Config]], truth: Mapping[str, Truth], seconds: Mapping[str, Seconds]
) -> Iterator[Row]:
    """A row for each variant, in their order."""
    scored = score(variants, truth)
    base = scored.get(REFERENCE)
    for variant, configs in variants.items():
        everything = range(configs[0].data.num_classes)
        seeds = scored[variant]
        multiply_adds, parameters = cost(configs[0])
        yield Row(
            variant=variant,
            network=describe(configs[0].model),
            multiply_adds=multiply_adds,
            parameters=parameters,
            by_seed=[seed.mean(everything)[0] for seed in seeds],
            score=estimate(seeds, everything),
            minus_reference=None if base is None or variant == REFERENCE else estimate(seeds, everything, base),
            groups={name: estimate(seeds, classes) for name, classes in read_groups(configs[0]).items()},
            seconds=seconds[variant],
        )


# --- files ------------------------------------------------------------------------------------------------------------


def write(
    prefix: Path,
    variants: Mapping[str, Sequence[Config]],
    seconds: Mapping[str, Seconds],
    *,
    about: Mapping[str, Any],
) -> None:
    """Score all variants (their configurations, one a seed) and write PREFIX.md, .json, .csv and .png.

    `about` says how they came about: "command", and "cpu_seconds" of all stages together.
    """
    first = next(iter(variants.values()))
    data, truth = first[0].data, read_truth(first[0])
    table = list(rows(variants, truth, seconds))
    about = {
        **about,
        "data": data.annotations,
        "test_videos": len(truth),
        "frames": data.fine_frames,
        "seeds": [config.run.seed for config in first],
        "level": LEVEL,
        "resamples": RESAMPLES,
        "chance": chance(truth, data.num_classes),
    }
    md, js, sheet, png = (prefix.with_name(prefix.name + suffix) for suffix in SUFFIXES)
    write_text(md, "\n".join(markdown(table, about)) + "\n")
    write_text(js, json.dumps({**about, "rows": [asdict(row) for row in table]}, indent=1) + "\n")
    write_csv(sheet, table, about["seeds"])
    draw(png, table, about)


def chance(truth: Mapping[str, Truth], num_classes: int) -> float:
    """mAP in percent to be expected of random scores: the mean share of positive frames."""
    labels = [charades_localize.frame_labels(*known, num_classes) for known in truth.values()]
    return 100 * float(np.concatenate(labels).mean())


def markdown(table: Sequence[Row], about: Mapping[str, Any]) -> Iterator[str]:
    """The table of results, and that of differences and costs."""
    seeds = about["seeds"]
    yield f"    {about['command']}"
    yield ""
    yield (
        f"mAP in %, rule official, {about['test_videos']} test videos; seeds {', '.join(map(str, seeds))}; "
        f"95% intervals; chance {about['chance']:.1f}; {about['cpu_seconds'] / 60:.0f} minutes of CPU time in all"
    )
    yield ""
    yield from _lines(
        ["", "pool, fusion, weights", "G multiply-adds", "parameters", "mAP", "over seeds", "over videos",
         *(f"seed {seed}" for seed in seeds)],
        ([row.title, row.network, f"{row.multiply_adds / 1e9:.3f}", f"{row.parameters:,}", *shown(row.score),
          *(f"{value:.1f}" for value in row.by_seed)] for row in table),
    )  # fmt: skip
    yield ""
    groups = list(table[0].groups)
    yield from _lines(
        ["", f"minus {TITLES[REFERENCE]}", "over seeds", "over videos", *(f"mAP, {name}" for name in groups),
         "stage 3: wall s", "CPU s"],
        ([row.title, *(shown(row.minus_reference, sign="+") if row.minus_reference else [""] * 3),
          *(f"{row.groups[name].mean:.1f}" for name in groups), f"{row.seconds.wall:.0f}", f"{row.seconds.cpu:.0f}"]
         for row in table),
    )  # fmt: skip


def _lines(header: Sequence[str], body: Iterator[Sequence[str]]) -> Iterator[str]:
    for number, cells in enumerate([header, *body]):
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield "|---" * len(header) + "|"


def shown(of: Estimate, sign: str = "") -> list[str]:
    """Mean and both intervals."""
    ends = [of.over_seeds, of.over_videos]
    return [f"{of.mean:{sign}.1f}", *(f"{end[0]:{sign}.1f} to {end[1]:{sign}.1f}" if end else "" for end in ends)]


def write_csv(path: Path, table: Sequence[Row], seeds: Sequence[int]) -> None:
    """One line for each variant and seed."""
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["variant", "seed", "multiply_adds", "mAP_official_percent"])
        for row in table:
            lines.writerows(
                [row.variant, seed, row.multiply_adds, repr(value)]
                for seed, value in zip(seeds, row.by_seed, strict=True)
            )


# --- picture ----------------------------------------------------------------------------------------------------------

SIDE_BY_SIDE = 0.025  # of the axis: points closer than this stand beside each other


def draw(path: Path, table: Sequence[Row], about: Mapping[str, Any]) -> None:
    """mAP against multiply-adds: the mean over the seeds with its interval, and each seed as a dot."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for row, x in zip(table, places([row.multiply_adds / 1e9 for row in table]), strict=True):
        low, high = row.score.over_seeds or (row.score.mean, row.score.mean)
        bars = [[row.score.mean - low], [high - row.score.mean]]
        drawn = axes.errorbar(x, row.score.mean, bars, fmt="o", capsize=3, label=f"{row.title}  {row.score.mean:.1f}")
        axes.plot([x] * len(row.by_seed), row.by_seed, ".", color=drawn[0].get_color(), alpha=0.5)
    axes.axhline(about["chance"], color="gray", linewidth=0.8, linestyle=":", label=f"chance  {about['chance']:.1f}")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"multiply-adds of a video of {about['frames']} frames, in G")
    axes.set_ylabel("mAP in %, rule official")
    axes.set_title(
        f"mean of {len(about['seeds'])} seeds (small dots) with its 95% interval by Student's t;\n"
        "points of equal cost stand side by side", fontsize=9,
    )  # fmt: skip
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def places(costs: Sequence[float]) -> list[float]:
    """Where on the axis each cost is drawn: those too close to one before are moved to the right of it."""
    step, placed = SIDE_BY_SIDE * max(costs), {}
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        before = max(placed.values(), default=-np.inf)
        placed[index] = max(costs[index], before + step)
    return [placed[index] for index in range(len(costs))]
