"""Write the results of `tools.ablate`: tables in Markdown, all numbers as JSON, scores as CSV, and a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.files import JsonObject, write_text, written_whole
from configs.schema import Config
from datasets.assembly import read_truth
from eval.bootstrap import LEVEL
from tools.ablate.jobs import Seconds
from tools.ablate.scores import REFERENCE, RESAMPLES, TITLES, Estimate, Row, rows
from tools.runs import official_labels
from tools.tables import format_table

SUFFIXES = (".md", ".json", ".csv", ".png")


def output_files(prefix: Path) -> list[Path]:
    return [prefix.with_name(prefix.name + suffix) for suffix in SUFFIXES]


def write(
    prefix: Path,
    variants: Mapping[str, Sequence[Config]],
    seconds: Mapping[str, Seconds],
    *,
    command: str,
    cpu_seconds: float,
) -> None:
    """Score all variants (one configuration per seed) and write PREFIX.md, .json, .csv and .png.

    Args:
        seconds: Time of stage 3 per variant, over all seeds.
        command, cpu_seconds: Command line of the ablation, and CPU time of all stages.
    """
    first = next(iter(variants.values()))
    data, truth = first[0].data, read_truth(first[0])
    table = list(rows(variants, truth, seconds))
    about: JsonObject = {
        "command": command,
        "cpu_seconds": cpu_seconds,
        "data": data.annotations,
        "test_videos": len(truth),
        "frames": data.fine_frames,
        "seeds": [config.run.seed for config in first],
        "level": LEVEL,
        "resamples": RESAMPLES,
        "chance": 100 * float(official_labels(truth, data.num_classes).mean()),
    }
    md, js, sheet, png = output_files(prefix)
    write_text(md, markdown(table, about))
    write_text(js, json.dumps({**about, "rows": [asdict(row) for row in table]}, indent=1) + "\n")
    lines = [
        f"{row.variant},{config.run.seed},{row.multiply_adds},{value!r}\n"
        for row in table
        for config, value in zip(first, row.by_seed, strict=True)
    ]
    write_text(sheet, "".join(["variant,seed,multiply_adds,mAP_official_percent\n", *lines]))
    draw(png, table, about)


def markdown(table: Sequence[Row], about: JsonObject) -> str:
    """The table of results, and the table of differences and costs."""
    results: list[dict[str, str]] = []
    differences: list[dict[str, str]] = []
    for row in table:
        results.append({
            "": row.title,
            "pool, fusion, weights": row.network,
            "G multiply-adds": f"{row.multiply_adds / 1e9:.3f}",
            "parameters": f"{row.parameters:,}",
            **shown("mAP", row.score),
            **{f"seed {seed}": f"{mAP:.1f}" for seed, mAP in zip(about["seeds"], row.by_seed, strict=True)},
        })  # fmt: skip
        differences.append({
            "": row.title,
            **shown(f"minus {TITLES[REFERENCE]}", row.minus_reference, sign="+"),
            **{f"mAP, {name}": f"{group.mean:.1f}" for name, group in row.groups.items()},
            "stage 3: wall s": f"{row.seconds.wall:.0f}",
            "CPU s": f"{row.seconds.cpu:.0f}",
        })  # fmt: skip
    about_it = (
        f"mAP in %, rule official, {about['test_videos']} test videos; seeds {', '.join(map(str, about['seeds']))}; "
        f"95% intervals; chance {about['chance']:.1f}; {about['cpu_seconds'] / 60:.0f} minutes of CPU time in total"
    )
    tables = [format_table(lines, markdown=True) for lines in (results, differences)]
    return "\n\n".join([f"    {about['command']}", about_it, *tables]) + "\n"


def shown(title: str, of: Estimate | None, sign: str = "") -> dict[str, str]:
    """Format the mean and both intervals as three columns."""
    ends = {"over seeds": of and of.over_seeds, "over videos": of and of.over_videos}
    intervals = {name: f"{end[0]:{sign}.1f} to {end[1]:{sign}.1f}" if end else "" for name, end in ends.items()}
    return {title: f"{of.mean:{sign}.1f}" if of else "", **intervals}


# --- figure -----------------------------------------------------------------------------------------------------------

SIDE_BY_SIDE = 0.025  # fraction of the axis: points closer than this are drawn side by side


def draw(path: Path, table: Sequence[Row], about: JsonObject) -> None:
    """Plot mAP against multiply-adds: the mean over seeds with its interval, and a dot per seed."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for row, x in zip(table, places([row.multiply_adds / 1e9 for row in table]), strict=True):
        low, high = row.score.over_seeds or (row.score.mean, row.score.mean)
        bars = [[row.score.mean - low], [high - row.score.mean]]
        drawn = axes.errorbar(x, row.score.mean, bars, fmt="o", capsize=3, label=f"{row.title}  {row.score.mean:.1f}")
        axes.plot([x] * len(row.by_seed), row.by_seed, ".", color=drawn[0].get_color(), alpha=0.5)
    axes.axhline(about["chance"], color="gray", linewidth=0.8, linestyle=":", label=f"chance  {about['chance']:.1f}")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"G multiply-adds for a video of {about['frames']} frames")
    axes.set_ylabel("mAP in %, rule official")
    axes.set_title(
        f"mean of {len(about['seeds'])} seeds (small dots) with 95% Student's t interval;\n"
        "points of equal cost are drawn side by side", fontsize=9,
    )  # fmt: skip
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def places(costs: Sequence[float]) -> list[float]:
    """Positions on the axis: a cost too close to the one before is moved to its right."""
    step = SIDE_BY_SIDE * max(costs)
    placed: dict[int, float] = {}
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        before = max(placed.values(), default=-np.inf)
        placed[index] = max(costs[index], before + step)
    return [placed[index] for index in range(len(costs))]
