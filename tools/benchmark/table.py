"""The benchmark's tables: what was measured, the baseline beside it, and the limit."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tools.benchmark.networks import FRAMES, MULTIPLY_ADDS
from tools.benchmark.rows import CUDA, LENGTHS, LINES, Limit, length_row
from tools.benchmark.timing import Result
from tools.tables import Table

Results = Mapping[str, Result]  # by row; a row that was not measured is absent, or has only "failed"

PUBLISHED_STEP = (1.6, 15)  # seconds and clips of a step in the published training log, on 5 GPUs


def comparison(results: Results, *, judged: bool) -> Table:
    """The main table. `judged`: compare with the limits, which are meant for whole rows on a CPU."""
    return [
        {
            "work": row.work,
            "baseline": _cell(row.baseline, results[name]) or _cell(row.ours, results.get(f"{name}_plain")),
            "ours": _cell(row.ours, results[name]),
            "limit": ", ".join(map(str, row.limits)),
            "met": _verdict(row.limits, results[name]) if judged or not row.limits else "not judged",
        }
        for name, row in LINES.items()
        if name in results
    ]


def cuda_options(results: Results) -> Table:
    """bfloat16 and compilation, where there is a GPU."""
    return [{"work": row.work, "ours": _cell(row.ours, results[name])} for name, row in CUDA.items() if name in results]


def _cell(template: str, result: Result | None) -> str:
    """The template with a row's numbers; empty where it was not measured, and why where that failed."""
    if not template or result is None:
        return ""
    return result["failed"] if "failed" in result else template.format_map(result)


def _verdict(limits: Sequence[Limit], result: Result) -> str:
    if not limits:
        return ""
    if "failed" in result:
        return "no"
    missed = [str(limit) for limit in limits if not limit.holds(result)]
    return f"no: {', '.join(missed)}" if missed else "yes"


def growth(results: Results) -> Table:
    """Seconds and memory of one clip at each length, and how they grow."""
    table = []
    for name, lengths in LENGTHS.items():
        rows = {T: results.get(length_row(name, T), {}) for T in lengths}
        measured = [(T, row["seconds"], row["gigabytes"]) for T, row in rows.items() if "seconds" in row]
        if len(measured) > 1:
            T, seconds, gigabytes = np.array(measured).T
            doublings = math.log2(T[-1] / T[-2])
            time, memory = ((y[-1] / y[-2]) ** (1 / doublings) for y in (seconds, gigabytes))
            table.append(
                {
                    "work, B=1": _one_clip(name),
                    "T": " ".join(f"{x:.0f}" for x in T),
                    "s": " ".join(f"{x:.2f}" for x in seconds),
                    "GB": " ".join(f"{x:.2f}" for x in gigabytes),
                    "ms per frame": f"{1e3 * np.polyfit(T, seconds, 1)[0]:.1f}",  # the slope of a straight line
                    "MB per frame": f"{1e3 * np.polyfit(T, gigabytes, 1)[0]:.1f}",
                    "last doubling": f"time x{time:.2f}, memory x{memory:.2f}",
                }
            )
    return table


def _one_clip(name: str) -> str:
    return LINES[name].work.removesuffix(", B=2")


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
    for name in ("fine_train", "coarse_train"):
        result = results.get(name, {})
        if "seconds" in result:
            steps[f"{_one_clip(name)}, here"] = result["seconds"] * FRAMES / result["frames"], result["batch"]
    if entered:
        steps["entered"] = entered
    return [
        {
            "step": step,
            "s per step": f"{seconds:.2f}",
            "clips per step": str(clips),
            "s per clip and worker": f"{seconds_per_clip:.3f}",
            "workers": str(math.ceil(seconds_per_clip * clips / seconds)),
        }
        for step, (seconds, clips) in steps.items()
    ]


def multiply_adds(results: Results) -> Table:
    """G multiply-adds of a clip of 64 frames: those of the floor, and what our networks need."""
    counted = results.get("multiply_adds", {})
    return [
        {"stream": stream, "as published": f"{published / 1e9:.1f}", "ours": f"{counted[stream] / 1e9:.1f}"}
        for stream, published in MULTIPLY_ADDS.items()
        if stream in counted
    ]


def summary(result: Result) -> str:
    """One row's result in a few words, for progress lines."""
    if "failed" in result:
        return result["failed"]
    return ", ".join(f"{key} {value:.4g}" for key, value in result.items())
