"""The benchmark's tables: measurements, baselines and limits."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tools.benchmark.networks import FRAMES, MULTIPLY_ADDS
from tools.benchmark.rows import CUDA, LENGTHS, LINES, Limit, length_row
from tools.benchmark.timing import Result
from tools.tables import Table

Results = Mapping[str, Result]  # by row; rows not measured are absent, failed rows have only "failed"

PUBLISHED_STEP = (1.6, 15)  # seconds and clips per step in the published training log, on 5 GPUs


def comparison(results: Results, *, judged: bool) -> Table:
    """The main table. `judged`: check the limits, which apply to full-size rows on a CPU."""
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
    """The table of bfloat16 and compilation, measured on a GPU."""
    return [{"work": row.work, "ours": _cell(row.ours, results[name])} for name, row in CUDA.items() if name in results]


def _cell(template: str, result: Result | None) -> str:
    """Format a row's result; empty if it was not measured, the reason if it failed."""
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
    """Seconds and memory for one clip at each length, and their growth."""
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
                    "ms per frame": f"{1e3 * np.polyfit(T, seconds, 1)[0]:.1f}",  # slope of a linear fit
                    "MB per frame": f"{1e3 * np.polyfit(T, gigabytes, 1)[0]:.1f}",
                    "last doubling": f"time x{time:.2f}, memory x{memory:.2f}",
                }
            )
    return table


def _one_clip(name: str) -> str:
    return LINES[name].work.removesuffix(", B=2")


def loader_workers(results: Results, entered: tuple[float, int] | None) -> Table:
    """The number of loader workers needed to keep up with training.

    Args:
        entered: Seconds and clips per step, as given by the user.
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
    """G multiply-adds for a clip of 64 frames: published (used for the floor) and ours."""
    counted = results.get("multiply_adds", {})
    return [
        {"stream": stream, "as published": f"{published / 1e9:.1f}", "ours": f"{counted[stream] / 1e9:.1f}"}
        for stream, published in MULTIPLY_ADDS.items()
        if stream in counted
    ]


def summary(result: Result) -> str:
    """A short form of one row's result, for progress lines."""
    if "failed" in result:
        return result["failed"]
    return ", ".join(f"{key} {value:.4g}" for key, value in result.items())
