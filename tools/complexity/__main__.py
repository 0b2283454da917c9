"""Parameters and multiply-adds of both streams, part by part, and the points of the paper's figure 1 beside ours.

    python -m tools.complexity
    python -m tools.complexity --config configs/charades.yaml --config configs/ablations/lateral.yaml --json counts.json
    python -m tools.complexity --model.variant XL --model.pool none

One video in evaluation; norms, activations, sums and sampling are not counted. There are two settings: the lengths of
stage 3 (Coarse T = 64, Fine T' = 128 clip frames) and equal lengths (T = T' = 128), which by all signs is what the
figure counts. Where ours differs from the figure by more than 5% it is by fusion, which the published code computes
at the stages' own sizes (`tools.complexity_count` says how): counted in that way ("as published"), ours agrees.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import InputError, one_line
from common.files import write_text
from configs.cli import parse
from configs.schema import Config
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
    """A point of the paper's figure, in G multiply-adds read off to 2%. Without fusion it is the Fine stream alone."""

    name: str
    paper: float
    pool: str = ""
    fusion: str = ""


POINTS = (
    Point("X3D", 38),
    Point("SlowFast_det", 54, "stride", "lateral"),
    Point("Coarse-Fine", 61, "grid", "multistage"),
    Point("Fine-Fine", 95, "none", "multistage"),
)


# --- the configured networks ------------------------------------------------------------------------------------------


def count_settings(config: Config) -> list[Setting]:
    """The lengths of stage 3, and equal ones."""
    data = config.data
    T, fine_frames = math.ceil(data.clip_span / data.stride), data.fine_frames
    for name in ("size", "clip_span", "fine_frames", "num_classes"):
        if (value := getattr(data, name) or 0) > LARGEST:
            raise InputError(f"--data.{name} {value}: too large to count; at most {LARGEST}")
    fine = count_fine(config, fine_frames)
    return [
        Setting(name, frames, fine_frames, {"Fine": fine, "Coarse": count_coarse(config, frames, fine_frames)})
        for name, frames in (("training", T), ("equal lengths", fine_frames))
    ]


def table(config: Config, settings: Sequence[Setting]) -> Iterator[str]:
    """Lines: both streams and their parts; a column of multiply-adds for each setting."""
    model, size = config.model, input_size(config)
    yield (
        f"X3D-{model.variant}, {size} px, {config.data.num_classes} classes, pool {model.pool}, fusion {model.fusion}: "
        "parameters, and G multiply-adds of one video"
    )
    yield " " * INDENT + "".join(f"{s.name:>18}" for s in settings)
    lengths = (f"T={s.coarse_frames}, T'={s.fine_frames}" for s in settings)
    yield " " * INDENT + "".join(f"{text:>18}" for text in lengths)
    for stream in STREAMS:
        counts = [s.counts[stream] for s in settings]
        yield from stream_lines(f"{stream} stream", [counts])
        for part, parameters in counts[0].parameters.items():
            yield _line(f"  {part}", parameters, [c.multiply_adds[part] for c in counts])
    if model.fusion != "none":  # which does without the Fine stream
        yield from stream_lines("both streams", [[s.counts[stream] for s in settings] for stream in STREAMS])


def stream_lines(name: str, streams: Sequence[Sequence[Count]]) -> Iterator[str]:
    """The sum of streams, each counted in every setting; and as published, where that differs."""
    parameters = sum(sum(counts[0].parameters.values()) for counts in streams)
    settings = list(zip(*streams, strict=True))
    ours, published = ([sum(getattr(c, key) for c in s) for s in settings] for key in ("total", "as_published"))
    yield _line(name, parameters, ours)
    if ours != published:
        yield _line(f"{name}, as published", None, published)


def _line(name: str, parameters: int | None, multiply_adds: Sequence[int]) -> str:
    number = "" if parameters is None else f"{parameters:,}"
    return f"{name}{number:>{INDENT - len(name)}}" + "".join(f"{m / 1e9:18.3f}" for m in multiply_adds)


# --- the paper's ------------------------------------------------------------------------------------------------------


def compare(config: Config) -> list[dict[str, Any]]:
    """Each of the paper's points beside ours at equal lengths, in G. `config` is the published setting."""
    frames = config.data.fine_frames
    fine, rows = count_fine(config, frames), []
    for point in POINTS:
        counts = [fine]
        if point.fusion:
            model = replace(config.model, pool=point.pool, fusion=point.fusion)
            counts.append(count_coarse(replace(config, model=model), frames, frames))
        published, ours = sum(c.as_published for c in counts) / 1e9, sum(c.total for c in counts) / 1e9
        rows.append({"name": point.name, "paper": point.paper, "as_published": published, "ours": ours})
    return rows


def comparison(config: Config, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines: a row for each point, with a word on a difference of more than 5%."""
    variant, frames = config.model.variant, config.data.fine_frames
    yield f"The paper's figure 1, G multiply-adds (X3D-{variant}, {input_size(config)} px, T=T'={frames})"
    yield f"{'':14}{'paper':>8}{'as published':>18}{'ours':>18}"
    for row in rows:
        published, ours = (row[key] / row["paper"] - 1 for key in ("as_published", "ours"))
        line = f"{row['name']:14}{row['paper']:8.0f}"
        line += f"{row['as_published']:9.1f} {_signed(published)}{row['ours']:9.1f} {_signed(ours)}"
        if abs(ours) > WORTH_A_WORD:
            line += "  *" if abs(published) <= WORTH_A_WORD else "  not explained"
        yield line
    sizes = ", ".join(map(str, sides(VARIANTS[variant].size)))
    yield f"* fusion is computed on the 7x7 grid here, at {sizes} px in the published code, with equal results"


def _signed(share: float) -> str:
    return f"({round(share, 3) + 0.0:+6.1%})"  # and no -0.0%


# --- command line -----------------------------------------------------------------------------------------------------


def write(path: Path, config: Config, settings: Sequence[Setting], rows: Sequence[dict[str, Any]]) -> None:
    """Everything that was counted: whole numbers, the paper's points in G."""
    contents = {
        "data": asdict(config.data), "model": asdict(config.model),
        "settings": [asdict(s) for s in settings], "figure": list(rows),
    }  # fmt: skip
    write_text(path, json.dumps(contents, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; 1 or 2 with one line on stderr where a file or an option is wrong."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--json", type=Path)  # the rest are options of an experiment
    try:
        given, options = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    except argparse.ArgumentError:
        print(f"{PROG}: error: --json needs a file after it: --json counts.json", file=sys.stderr)
        return 2
    description = f"{__doc__.partition('.')[0]}. --json FILE writes the numbers to a file; -gpu has no effect."
    config = parse(options, prog=PROG, description=description).config
    try:
        if given.json and (given.json.is_dir() or not given.json.absolute().parent.is_dir()):
            raise InputError(f"{given.json}: --json takes a file in a folder that exists")
        if given.json and given.json.suffix != ".json":
            raise InputError(f"{given.json}: --json takes a name that ends in .json")
        settings, published = count_settings(config), Config()
        print("\n".join(table(config, settings)), flush=True)
        rows = compare(published)
        print("\n".join(["", *comparison(published, rows)]))
        if given.json:
            write(given.json, config, settings, rows)
    except (InputError, OSError) as error:
        print(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
