"""All benchmark rows: what each runs, how its line is formatted, and its limits. Add new rows here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from tools.benchmark import data
from tools.benchmark.networks import FRAMES, Case, count
from tools.benchmark.timing import Result, Setting


class Limit(NamedTuple):
    """A bound on one value of a row's result. `sign` is "<=" or ">="."""

    key: str
    sign: str
    bound: float
    unit: str

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}{self.unit}"

    def holds(self, result: Result) -> bool:
        value = result[self.key]
        return value <= self.bound if self.sign == "<=" else value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the benchmark.

    Attributes:
        runs: A pass of a network, or another function that measures.
        work: Title in the tables.
        ours: Format template for the result.
        baseline: Template for the baseline's result; empty for networks, whose baseline is the `plain` row.
        in_quick: Also measured by --quick.
    """

    runs: Callable[[Setting], Result]
    work: str = ""
    ours: str = "{times_floor:.1f}x floor, {seconds:.2f} s, {gigabytes:.2f} GB"
    baseline: str = ""
    limits: tuple[Limit, ...] = ()
    in_quick: bool = True


def _floor(bound: float) -> Limit:
    return Limit("times_floor", "<=", bound, "x floor")


def _gigabytes(bound: float) -> Limit:
    return Limit("gigabytes", "<=", bound, " GB")


def _both(work: str, **options: bool) -> Row:
    """A row with a single step, which takes many seconds on a CPU."""
    case = Case(stream="both", training=True, least=1, most=1, **options)
    ours = "{seconds:.2f} s, {gigabytes:.2f} GB"
    return Row(work=f"Both streams, train step, {work}", runs=case, ours=ours, in_quick=False)


PASSES = {
    "fine_eval": Case(stream="fine"),
    "fine_train": Case(stream="fine", training=True),
    "coarse_eval": Case(stream="coarse"),
    "coarse_train": Case(stream="coarse", training=True, batch=2),
}
FINE_STEP, COARSE_STEP = PASSES["fine_train"], PASSES["coarse_train"]
CHECKPOINTED = "with activation checkpointing"
LINES = {  # rows of the main table
    "fine_eval": Row(work="Fine, evaluation", runs=PASSES["fine_eval"], limits=(_floor(4.8),)),
    "fine_train": Row(work="Fine, train step", runs=FINE_STEP, limits=(_floor(10), _gigabytes(4.8))),
    "fine_train_checkpointed": Row(
        work=CHECKPOINTED, runs=replace(FINE_STEP, checkpointed=True), limits=(_floor(13), _gigabytes(2.6))
    ),
    "coarse_eval": Row(work="Coarse, evaluation", runs=PASSES["coarse_eval"]),
    "coarse_train": Row(work="Coarse, train step, B=2", runs=COARSE_STEP, limits=(_floor(10.5), _gigabytes(5.5))),
    "coarse_train_checkpointed": Row(
        work=CHECKPOINTED, runs=replace(COARSE_STEP, checkpointed=True), limits=(_gigabytes(3.3),)
    ),
    "both_trained": _both("both trained"),
    "both_trained_checkpointed": _both(f"both trained, {CHECKPOINTED}", checkpointed=True),
    "both_frozen": _both("Fine stream frozen", fine_frozen=True),
    "both_frozen_checkpointed": _both(f"Fine stream frozen, {CHECKPOINTED}", fine_frozen=True, checkpointed=True),
    "loading": Row(
        work="JPEG files to a normalised clip, one process",
        runs=data.loading,
        ours="{seconds:.3f} s, {speedup:.1f} times faster",
        baseline="frame by frame with PIL: {pil_seconds:.3f} s",
        limits=(Limit("speedup", ">=", 3, " times"),),
    ),
    "average_precision": Row(
        work="average precision of 46,575 x 157 scores",
        runs=data.precision,
        ours="{seconds:.3f} s",
        baseline="one argsort per class: {argsort_seconds:.3f} s",
        limits=(Limit("seconds", "<=", 0.25, " s"),),
    ),
    "feature_store": Row(
        work="feature store, a video of 75 frames",
        runs=data.store,
        ours="{megabytes:.2f} MB, {milliseconds:.2f} ms; "
        "{window_milliseconds:.2f} ms for 32 frames of the widest level",
        baseline="5 pickled files: {pickled_megabytes:.2f} MB, {pickled_milliseconds:.2f} ms",
        limits=(Limit("share", "<=", 0.5, " of the bytes"), Limit("window_milliseconds", "<=", 1, " ms per window")),
    ),
}
PLAIN = {f"{name}_plain": replace(LINES[name], runs=replace(case, plain=True)) for name, case in PASSES.items()}
CUDA = {  # measured only on a GPU
    f"{name}_{suffix}": Row(
        work=f"{LINES[name].work}, {suffix.replace('_', ', ')}",
        runs=replace(case, bf16="bf16" in suffix, compiled="compiled" in suffix),
    )
    for name, case in PASSES.items()
    for suffix in ("bf16", "compiled", "bf16_compiled")
}
OTHERS = {"multiply_adds": Row(runs=count), "loader_worker": Row(runs=data.worker)}

LENGTHS = {  # T at which the growth of a row is measured, with one clip
    "fine_eval": (16, 32, 64, 128, 256, 512),
    "coarse_eval": (16, 32, 64, 128, 256, 512),
    "fine_train": (16, 32, 64, 128),
    "coarse_train": (16, 32, 64, 128),
}


def length_row(name: str, frames: int) -> str:
    """The row for a clip length. One clip of 64 frames is already in the main table."""
    return name if frames == FRAMES and PASSES[name].batch == 1 else f"{name}_{frames}"


SERIES = {
    length_row(name, T): Row(runs=replace(PASSES[name], batch=1, frames=T, least=2, budget=3.0), in_quick=False)
    for name, lengths in LENGTHS.items()
    for T in lengths
}
ROWS = OTHERS | SERIES | LINES | PLAIN | CUDA


def row_names(setting: Setting) -> list[str]:
    """The rows measured in this setting, in order."""
    names = [name for name, row in ROWS.items() if row.in_quick or not setting.quick]
    return [name for name in names if name not in CUDA or setting.device.type == "cuda"]


def measure(name: str, setting: Setting) -> Result:
    """Measure one row in this process. Spawned processes could not import it from __main__."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    return ROWS[name].runs(setting)
