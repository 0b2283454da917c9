"""The benchmark's tables: what was measured, beside what was published, what stands beside it, and what must hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.benchmark.networks import CUDA_OPTIONS, FRAMES, MULTIPLY_ADDS, length_row, series
from tools.benchmark.timing import Result

Results = Mapping[str, Result]  # by row; a row that was not measured is absent, or has only "failed"
Table = list[dict[str, str]]

PUBLISHED_STEP = (1.6, 15)  # seconds and clips of a step in the published training log, on 5 GPUs


@dataclass(frozen=True)
class Limit:
    """A bound on one number of one row."""

    row: str
    key: str
    unit: str
    at_most: float = math.inf
    at_least: float = -math.inf

    def __str__(self) -> str:
        sign, bound = ("<=", self.at_most) if self.at_least == -math.inf else (">=", self.at_least)
        return f"{sign} {bound:g}{self.unit}"

    def holds(self, results: Results) -> bool:
        return self.at_least <= results[self.row][self.key] <= self.at_most


@dataclass(frozen=True)
class Line:
    """A line of the table. `ours` and `beside` are templates over the results, "{row[key]}"."""

    work: str
    ours: str
    beside: str = ""
    published: str = ""
    limits: tuple[Limit, ...] = ()


def _network(
    work: str, row: str, *, floor: float = math.inf, gigabytes: float = math.inf, beside: str = "", published: str = ""
) -> Line:
    limits = (Limit(row, "times_floor", "x floor", at_most=floor), Limit(row, "gigabytes", " GB", at_most=gigabytes))
    return Line(
        work,
        _network_cell(row),
        _network_cell(beside) if beside else "",
        published,
        tuple(limit for limit in limits if limit.at_most < math.inf),
    )


def _network_cell(row: str) -> str:
    return f"{{{row}[times_floor]:.1f}}x floor, {{{row}[seconds]:.2f}} s, {{{row}[gigabytes]:.2f}} GB"


WORKS = {
    "fine_eval": "Fine, evaluation",
    "fine_train": "Fine, train step",
    "coarse_eval": "Coarse, evaluation",
    "coarse_train": "Coarse, train step, B=2",
}

BOTH_WORKS = {
    "both_trained": "T=64 and T'=128",
    "both_trained_checkpointed": "activations computed again",
    "both_frozen": "Fine stream frozen",
    "both_frozen_checkpointed": "Fine stream frozen, activations computed again",
}

LINES = (
    _network(WORKS["fine_eval"], "fine_eval", floor=4.8, beside="fine_eval_plain", published="22x floor"),
    _network(
        WORKS["fine_train"],
        "fine_train",
        floor=10,
        gigabytes=4.8,
        beside="fine_train_plain",
        published="32x floor, 6.6 GB",
    ),
    _network("the same, activations computed again", "fine_train_checkpointed", floor=13, gigabytes=2.6),
    _network(WORKS["coarse_eval"], "coarse_eval", beside="coarse_eval_plain"),
    _network(
        WORKS["coarse_train"],
        "coarse_train",
        floor=10.5,
        gigabytes=5.5,
        beside="coarse_train_plain",
        published="59x floor, 12.0 GB",
    ),
    _network("the same, activations computed again", "coarse_train_checkpointed", gigabytes=3.3),
    *(
        Line(f"Both streams, train step, {work}", f"{{{row}[seconds]:.2f}} s, {{{row}[gigabytes]:.2f}} GB")
        for row, work in BOTH_WORKS.items()
    ),
    Line(
        "JPEG files to a normalised clip, one process",
        "{loading[seconds]:.3f} s, {loading[speedup]:.1f} times faster",
        "PIL path: {loading[pil_seconds]:.3f} s",
        "the PIL path",
        (Limit("loading", "speedup", " times", at_least=3),),
    ),
    Line(
        "Average precision of 46,575 x 157 scores",
        "{average_precision[seconds]:.3f} s",
        "an argsort a class: {average_precision[argsort_seconds]:.3f} s",
        "0.78 s",
        (Limit("average_precision", "seconds", " s", at_most=0.25),),
    ),
    Line(
        "Feature store, a video of 75 frames",
        "{feature_store[megabytes]:.2f} MB, {feature_store[milliseconds]:.2f} ms to read; "
        "{feature_store[window_milliseconds]:.2f} ms for 32 frames of the widest level",
        "5 pickled files: {feature_store[pickled_megabytes]:.2f} MB, {feature_store[pickled_milliseconds]:.2f} ms",
        "11.65 MB, 3.1 ms",
        (
            Limit("feature_store", "share", " of the bytes", at_most=0.5),
            Limit("feature_store", "window_milliseconds", " ms a window", at_most=1),
        ),
    ),
)
CUDA_LINES = tuple(
    _network(f"{work}, {suffix.replace('_', ', ')}", f"{row}_{suffix}")
    for row, work in WORKS.items()
    for suffix in CUDA_OPTIONS
)


def comparison(results: Results, *, judged: bool) -> Table:
    """The main table. `judged`: compare with the limits, which are meant for whole rows on a CPU."""
    return [
        {
            "work": line.work,
            "published code (figure from the design)": line.published,
            "beside it here": _fill(line.beside, results),
            "ours": _fill(line.ours, results),
            "must hold": ", ".join(map(str, line.limits)),
            "met": _verdict(line.limits, results) if judged or not line.limits else "not judged",
        }
        for line in LINES
        if _fill(line.ours, results)
    ]


def cuda_options(results: Results) -> Table:
    """bfloat16 and compilation, where there is a GPU."""
    cells = {line.work: _fill(line.ours, results) for line in CUDA_LINES}
    return [{"work": work, "ours": cell} for work, cell in cells.items() if cell]


def _fill(template: str, results: Results) -> str:
    """The template with numbers; empty where its row was not measured, and why where that failed."""
    try:
        return template.format_map(results)
    except KeyError:
        return next((r["failed"] for name, r in results.items() if "failed" in r and f"{{{name}[" in template), "")


def _verdict(limits: Sequence[Limit], results: Results) -> str:
    if not limits:
        return ""
    if any("failed" in results[limit.row] for limit in limits):
        return "no"
    missed = [str(limit) for limit in limits if not limit.holds(results)]
    return f"no: {', '.join(missed)}" if missed else "yes"


# --- against length ---------------------------------------------------------------------------------------------------


def growth(results: Results) -> Table:
    """Seconds and memory of one clip at each length, and how they grow."""
    table = []
    for row, lengths in series().items():
        measured = {T: results.get(length_row(row, T), {}) for T in lengths}
        measured = {T: r for T, r in measured.items() if "seconds" in r}
        if len(measured) > 1:
            table.append(_growth_line(WORKS[row].removesuffix(", B=2"), measured))
    return table


def _growth_line(work: str, measured: dict[int, Result]) -> dict[str, str]:
    T = np.array(list(measured))
    seconds, gigabytes = (np.array([r[key] for r in measured.values()]) for key in ("seconds", "gigabytes"))
    doublings = math.log2(T[-1] / T[-2])
    return {
        "work, B=1": work,
        "T": " ".join(map(str, T)),
        "s": " ".join(f"{x:.2f}" for x in seconds),
        "GB": " ".join(f"{x:.2f}" for x in gigabytes),
        "ms a frame": f"{1e3 * slope(T, seconds):.1f}",
        "MB a frame": f"{1e3 * slope(T, gigabytes):.1f}",
        "last doubling": f"time x{(seconds[-1] / seconds[-2]) ** (1 / doublings):.2f}, "
        f"memory x{(gigabytes[-1] / gigabytes[-2]) ** (1 / doublings):.2f}",
    }


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the straight line through the points, by least squares."""
    return float(np.polyfit(x, y, 1)[0])


# --- loader -----------------------------------------------------------------------------------------------------------


def loader_workers(results: Results, entered: tuple[float, int] | None) -> Table:
    """How many loader workers keep up with a step rate.

    Args:
        entered: seconds and clips of a step that the user asks about.
    """
    worker = results.get("loader_worker", {})
    if "seconds" not in worker:
        return []
    seconds_per_clip = worker["seconds"] * FRAMES / worker["frames"]
    steps = {"published log, 5 GPUs": PUBLISHED_STEP}
    for row in ("fine_train", "coarse_train"):
        if "seconds" in results.get(row, {}):
            result = results[row]
            steps[f"{WORKS[row].removesuffix(', B=2')}, here"] = (
                result["seconds"] * FRAMES / result["frames"],
                result["batch"],
            )
    if entered:
        steps["entered"] = entered
    return [
        {
            "step": name,
            "s a step": f"{seconds:.2f}",
            "clips a step": str(clips),
            "s a clip and worker": f"{seconds_per_clip:.3f}",
            "workers": str(math.ceil(seconds_per_clip * clips / seconds)),
        }
        for name, (seconds, clips) in steps.items()
    ]


# --- text -------------------------------------------------------------------------------------------------------------


def multiply_adds(results: Results) -> str:
    """The unit's constants, beside what our networks need."""
    counted = results.get("multiply_adds", {})
    parts = []
    for stream, published in MULTIPLY_ADDS.items():
        ours = f", counted in ours {counted[stream] / 1e9:.1f} G" if stream in counted else ""
        parts.append(f"{stream} {published / 1e9:.1f} G as published{ours}")
    return f"Multiply-adds of a clip of {FRAMES} frames: {'; '.join(parts)}. The floor counts the published ones."


def format_table(table: Table, *, markdown: bool) -> str:
    """Aligned columns, or Markdown to paste."""
    if not table:
        return ""
    rows = [list(table[0]), *(list(line.values()) for line in table)]
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def summary(result: Mapping[str, Any]) -> str:
    """One row's result in a few words, for progress lines."""
    if "failed" in result:
        return str(result["failed"])
    return ", ".join(f"{key} {value:.4g}" for key, value in result.items())
