"""Parameters and multiply-adds of both streams, part by part, and the points of the paper's figure 1 beside ours.

    python -m tools.complexity
    python -m tools.complexity --config configs/charades.yaml --config configs/ablations/lateral.yaml --json counts.json
    python -m tools.complexity --model.variant XL --model.pool none

One video in evaluation; norms, activations, sums and sampling are not counted. There are two settings: the lengths of
stage 3 (Coarse T = 64, Fine T' = 128 clip frames) and equal lengths (T = T' = 128), which by all signs is what the
figure counts. Where ours differs from the figure by more than 5% it is by fusion, which the published code computes
at the stages' own sizes (`tools.complexity.count` says how): counted in that way ("as published"), ours agrees.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.arguments import exit_status
from common.errors import InputError
from common.files import write_json
from configs.cli import parse
from configs.schema import Config, Model
from datasets.assembly import input_size
from models.x3d import VARIANTS
from tools.complexity.count import Count, count_coarse, count_fine, sides

STREAMS = ("Fine", "Coarse")
WORTH_A_WORD = 0.05
LARGEST = 100_000  # pixels, frames, classes: beyond it PyTorch's own counts of elements overflow
INDENT = 40  # columns before the multiply-adds
PROG = "python -m tools.complexity"


@dataclass(frozen=True)
class Setting:
    """Both streams at certain lengths, in clip frames."""

    name: str
    coarse_frames: int
    fine_frames: int
    counts: dict[str, Count]  # by stream


@dataclass(frozen=True)
class Point:
    """A point of the paper's figure, in G multiply-adds read off to 2%.

    Attributes:
        coarse: The Coarse stream beside the Fine one; None for the Fine stream alone.
    """

    name: str
    paper: float
    coarse: Model | None = None


PUBLISHED = Config()  # the figure's setting
POINTS = (
    Point("X3D", 38),
    Point("SlowFast_det", 54, Model(pool="stride", fusion="lateral")),
    Point("Coarse-Fine", 61, Model(pool="grid", fusion="multistage")),
    Point("Fine-Fine", 95, Model(pool="none", fusion="multistage")),
)


# --- the configured networks ------------------------------------------------------------------------------------------


def count_settings(config: Config) -> list[Setting]:
    """The lengths of stage 3, and equal ones."""
    data = config.data
    for name in ("size", "clip_span", "fine_frames", "num_classes"):
        if (value := getattr(data, name) or 0) > LARGEST:
            raise InputError(f"--data.{name} {value}: too large to count; at most {LARGEST}")
    fine = count_fine(config, data.fine_frames)
    lengths = {"training": math.ceil(data.clip_span / data.stride), "equal lengths": data.fine_frames}
    return [
        Setting(name, T, data.fine_frames, {"Fine": fine, "Coarse": count_coarse(config, T, data.fine_frames)})
        for name, T in lengths.items()
    ]


def table(config: Config, settings: Sequence[Setting]) -> Iterator[str]:
    """Lines: both streams, their parts and their sum; a column of multiply-adds for each setting."""
    model = config.model
    yield (
        f"X3D-{model.variant}, {input_size(config)} px, {config.data.num_classes} classes, pool {model.pool}, "
        f"fusion {model.fusion}: parameters, and G multiply-adds of one video"
    )
    yield " " * INDENT + "".join(f"{s.name:>18}" for s in settings)
    lengths = (f"T={s.coarse_frames}, T'={s.fine_frames}" for s in settings)
    yield " " * INDENT + "".join(f"{text:>18}" for text in lengths)
    for stream in STREAMS:
        counts = [s.counts[stream] for s in settings]
        yield from _total(f"{stream} stream", [[count] for count in counts])
        for part, parameters in counts[0].parameters.items():
            yield _line(f"  {part}", f"{parameters:,}", [count.multiply_adds[part] for count in counts])
    if model.fusion != "none":  # which does without the Fine stream
        yield from _total("both streams", [list(s.counts.values()) for s in settings])


def _total(name: str, settings: Sequence[Sequence[Count]]) -> Iterator[str]:
    """Lines: the sum of the streams in each setting; and as published, where that differs."""
    ours = [sum(count.total for count in streams) for streams in settings]
    published = [sum(count.as_published for count in streams) for streams in settings]
    yield _line(name, f"{sum(sum(count.parameters.values()) for count in settings[0]):,}", ours)
    if ours != published:
        yield _line(f"{name}, as published", "", published)


def _line(name: str, parameters: str, multiply_adds: Sequence[int]) -> str:
    return f"{name}{parameters:>{INDENT - len(name)}}" + "".join(f"{m / 1e9:18.3f}" for m in multiply_adds)


# --- the paper's ------------------------------------------------------------------------------------------------------


def count_points() -> list[dict[str, Any]]:
    """Each of the paper's points beside ours at equal lengths, in G."""
    frames = PUBLISHED.data.fine_frames
    fine, rows = count_fine(PUBLISHED, frames), []
    for point in POINTS:
        streams = [fine]
        if point.coarse:
            streams.append(count_coarse(replace(PUBLISHED, model=point.coarse), frames, frames))
        published, ours = sum(c.as_published for c in streams) / 1e9, sum(c.total for c in streams) / 1e9
        rows.append({"name": point.name, "paper": point.paper, "as_published": published, "ours": ours})
    return rows


def comparison(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines: a row for each point, with a word on a difference of more than 5%."""
    variant, frames = PUBLISHED.model.variant, PUBLISHED.data.fine_frames
    yield f"The paper's figure 1, G multiply-adds (X3D-{variant}, {input_size(PUBLISHED)} px, T=T'={frames})"
    yield f"{'':14}{'paper':>8}{'as published':>18}{'ours':>18}"
    for row in rows:
        published, ours = (row[key] / row["paper"] - 1 for key in ("as_published", "ours"))
        remark = ""
        if abs(ours) > WORTH_A_WORD:
            remark = "  *" if abs(published) <= WORTH_A_WORD else "  not explained"
        yield (
            f"{row['name']:14}{row['paper']:8.0f}{row['as_published']:9.1f} {_signed(published)}"
            f"{row['ours']:9.1f} {_signed(ours)}{remark}"
        )
    sizes = ", ".join(map(str, sides(VARIANTS[variant].size)))
    yield f"* fusion is computed on the 7x7 grid here, at {sizes} px in the published code, with equal results"


def _signed(share: float) -> str:
    return f"({round(share, 3) + 0.0:+6.1%})"  # and no -0.0%


# --- command line -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; 1 or 2 with one line on stderr where a file or an option is wrong."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--json", type=Path)  # the rest are options of an experiment
    try:
        given, options = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        print(f"{PROG}: error: --json needs a file after it: --json counts.json", file=sys.stderr)
        return 2
    description = f"{__doc__.partition('.')[0]}. --json FILE writes the numbers to a file; -gpu has no effect."
    config = parse(options, prog=PROG, description=description).config
    return exit_status(PROG, lambda: run(config, given.json))


def run(config: Config, json_file: Path | None) -> None:
    """Count, print and write."""
    if json_file and (json_file.suffix != ".json" or json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise InputError(f"{json_file}: --json takes a file in a folder that exists, with a name that ends in .json")
    settings = count_settings(config)
    print("\n".join(table(config, settings)), flush=True)
    rows = count_points()
    print("\n".join(["", *comparison(rows)]))
    if json_file:
        counted = {"settings": [asdict(s) for s in settings], "figure": rows}
        write_json(json_file, {"data": asdict(config.data), "model": asdict(config.model), **counted})


if __name__ == "__main__":
    sys.exit(main())
