"""All rows of the benchmark: what each runs, how its line reads, and what must hold. A new row is an entry here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tools.benchmark import networks
from tools.benchmark.networks import FRAMES, Case
from tools.benchmark.timing import Result, Setting


@dataclass(frozen=True)
class Limit:
    """A bound on one number of a row's result, from above or from below."""

    key: str
    unit: str
    at_most: float = math.inf
    at_least: float = -math.inf

    def __str__(self) -> str:
        sign, bound = ("<=", self.at_most) if self.at_least == -math.inf else (">=", self.at_least)
        return f"{sign} {bound:g}{self.unit}"

    def holds(self, result: Result) -> bool:
        return self.at_least <= result[self.key] <= self.at_most


FLOOR = "{times_floor:.1f}x floor, {seconds:.2f} s, {gigabytes:.2f} GB"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row.

    Attributes:
        work: what its line calls it.
        runs: a pass of a network, or a function that measures something else.
        ours: a template over the result.
        beside: another, of the way it stands beside; a network has its `plain` row there.
        published: the published code's figure, from the design document.
        in_quick: measured by --quick too.
    """

    runs: Case | Callable[[Setting], Result]
    work: str = ""
    ours: str = FLOOR
    beside: str = ""
    published: str = ""
    limits: tuple[Limit, ...] = ()
    in_quick: bool = True

    def can_run(self, setting: Setting) -> bool:
        return not (isinstance(self.runs, Case) and self.runs.cuda_only) or setting.device.type == "cuda"

    def measure(self, setting: Setting) -> Result:
        """Measure it in this process."""
        return networks.measure(self.runs, setting) if isinstance(self.runs, Case) else self.runs(setting)


def _data(name: str) -> Callable[[Setting], Result]:
    """A function of tools.benchmark.data, which is imported late: its memory would count as the networks'."""

    def measure(setting: Setting) -> Result:
        from tools.benchmark import data

        return getattr(data, name)(setting)

    return measure


def _at_most(*, floor: float = math.inf, gigabytes: float = math.inf) -> tuple[Limit, ...]:
    limits = Limit("times_floor", "x floor", floor), Limit("gigabytes", " GB", gigabytes)
    return tuple(limit for limit in limits if limit.at_most < math.inf)


def _both(work: str, case: Case) -> Row:
    return Row(
        work=f"Both streams, train step, {work}",
        runs=case,
        ours="{seconds:.2f} s, {gigabytes:.2f} GB",
        in_quick=False,
    )


PASSES = {
    "fine_eval": Case(stream="fine"),
    "fine_train": Case(stream="fine", training=True),
    "coarse_eval": Case(stream="coarse"),
    "coarse_train": Case(stream="coarse", training=True, batch=2),
}
BOTH = Case(stream="both", training=True, least=1, most=1)  # a single step, since it takes many seconds on a CPU
FROZEN = replace(BOTH, fine_frozen=True)

LINES = {  # of the main table
    "fine_eval": Row(
        work="Fine, evaluation",
        runs=PASSES["fine_eval"],
        published="22x floor",
        limits=_at_most(floor=4.8),
    ),
    "fine_train": Row(
        work="Fine, train step",
        runs=PASSES["fine_train"],
        published="32x floor, 6.6 GB",
        limits=_at_most(floor=10, gigabytes=4.8),
    ),
    "fine_train_checkpointed": Row(
        work="the same, activations computed again",
        runs=replace(PASSES["fine_train"], checkpointed=True),
        limits=_at_most(floor=13, gigabytes=2.6),
    ),
    "coarse_eval": Row(work="Coarse, evaluation", runs=PASSES["coarse_eval"]),
    "coarse_train": Row(
        work="Coarse, train step, B=2",
        runs=PASSES["coarse_train"],
        published="59x floor, 12.0 GB",
        limits=_at_most(floor=10.5, gigabytes=5.5),
    ),
    "coarse_train_checkpointed": Row(
        work="the same, activations computed again",
        runs=replace(PASSES["coarse_train"], checkpointed=True),
        limits=_at_most(gigabytes=3.3),
    ),
    "both_trained": _both("T=64 and T'=128", BOTH),
    "both_trained_checkpointed": _both("activations computed again", replace(BOTH, checkpointed=True)),
    "both_frozen": _both("Fine stream frozen", FROZEN),
    "both_frozen_checkpointed": _both(
        "Fine stream frozen, activations computed again", replace(FROZEN, checkpointed=True)
    ),
    "loading": Row(
        work="JPEG files to a normalised clip, one process",
        runs=_data("loading"),
        ours="{seconds:.3f} s, {speedup:.1f} times faster",
        beside="PIL path: {pil_seconds:.3f} s",
        published="the PIL path",
        limits=(Limit("speedup", " times", at_least=3),),
    ),
    "average_precision": Row(
        work="Average precision of 46,575 x 157 scores",
        runs=_data("precision"),
        ours="{seconds:.3f} s",
        beside="an argsort a class: {argsort_seconds:.3f} s",
        published="0.78 s",
        limits=(Limit("seconds", " s", at_most=0.25),),
    ),
    "feature_store": Row(
        work="Feature store, a video of 75 frames",
        runs=_data("store"),
        ours="{megabytes:.2f} MB, {milliseconds:.2f} ms to read; "
        "{window_milliseconds:.2f} ms for 32 frames of the widest level",
        beside="5 pickled files: {pickled_megabytes:.2f} MB, {pickled_milliseconds:.2f} ms",
        published="11.65 MB, 3.1 ms",
        limits=(
            Limit("share", " of the bytes", at_most=0.5),
            Limit("window_milliseconds", " ms a window", at_most=1),
        ),
    ),
}
PLAIN = {f"{name}_plain": replace(LINES[name], runs=replace(case, plain=True)) for name, case in PASSES.items()}
CUDA = {
    f"{name}_{suffix}": Row(
        work=f"{LINES[name].work}, {suffix.replace('_', ', ')}",
        runs=replace(case, bf16="bf16" in suffix, compiled="compiled" in suffix),
    )
    for name, case in PASSES.items()
    for suffix in ("bf16", "compiled", "bf16_compiled")
}
OTHERS = {"multiply_adds": Row(runs=networks.count), "loader_worker": Row(runs=_data("worker"))}

LENGTHS = {  # T at which a row's growth is looked at, one clip at a time
    "fine_eval": (16, 32, 64, 128, 256, 512),
    "coarse_eval": (16, 32, 64, 128, 256, 512),
    "fine_train": (16, 32, 64, 128),
    "coarse_train": (16, 32, 64, 128),
}


def length_row(name: str, frames: int) -> str:
    """The row of a length; one clip of 64 frames stands in the main table already."""
    return name if frames == FRAMES and PASSES[name].batch == 1 else f"{name}_{frames}"


SERIES = {
    length_row(name, T): Row(runs=replace(PASSES[name], batch=1, frames=T, least=2, budget=3.0), in_quick=False)
    for name, lengths in LENGTHS.items()
    for T in lengths
}
ROWS = OTHERS | SERIES | LINES | PLAIN | CUDA


def row_names(*, quick: bool) -> list[str]:
    """Every row, in the order of measurement."""
    return [name for name, row in ROWS.items() if row.in_quick or not quick]
