"""Count the parameters and multiply-adds of both streams by module, and compare them with figure 1 of the paper.

    python -m tools.complexity
    python -m tools.complexity --config configs/charades.yaml --config configs/ablations/lateral.yaml --json counts.json
    python -m tools.complexity --model.variant XL --model.pool none

Counts are for evaluating one video, without norms, activations, sums and sampling. There are two settings: the lengths
of stage 3 (Coarse T = 64, Fine T' = 128 clip frames) and equal lengths (T = T' = 128), which is most likely what the
figure counts. Differences of more than 5% are due to fusion, which the published code computes at the stages' own sizes
(see `tools.complexity.count`). Counted that way ("as published"), our numbers agree.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import JsonObject, write_json
from configs.cli import parse
from configs.schema import Config, Model
from datasets.assembly import input_size
from models.x3d import VARIANTS
from tools.complexity.count import Count, count_coarse, count_fine, sides
from tools.tables import format_table

WORTH_A_WORD = 0.05
LARGEST = 100_000  # pixels, frames, classes: above it, PyTorch's element counts overflow
PROG = "python -m tools.complexity"
PUBLISHED = Config()  # setting of the figure
POINTS = {  # of the paper's figure: G multiply-adds, read off to 2%, and the Coarse stream added to the Fine one
    "X3D": (38, None),
    "SlowFast_det": (54, Model(pool="stride", fusion="lateral")),
    "Coarse-Fine": (61, Model(pool="grid", fusion="multistage")),
    "Fine-Fine": (95, Model(pool="none", fusion="multistage")),
}


@dataclass(frozen=True)
class Setting:
    """Counts of both streams at given lengths, in clip frames."""

    name: str
    coarse_frames: int
    fine_frames: int
    counts: dict[str, Count]  # by stream


# --- the configured networks ------------------------------------------------------------------------------------------


def count_settings(config: Config) -> list[Setting]:
    """Count both streams at the lengths of stage 3 and at equal lengths."""
    data = config.data
    for name in ("size", "clip_span", "fine_frames", "num_classes"):
        if (value := getattr(data, name) or 0) > LARGEST:
            raise InputError(f"--data.{name} {value}: too large; use at most {LARGEST}")
    fine = count_fine(config, data.fine_frames)
    lengths = {"training": math.ceil(data.clip_span / data.stride), "equal lengths": data.fine_frames}
    return [
        Setting(name, T, data.fine_frames, {"Fine": fine, "Coarse": count_coarse(config, T, data.fine_frames)})
        for name, T in lengths.items()
    ]


def table(config: Config, settings: Sequence[Setting]) -> str:
    """Format both streams, their modules and their sum, with a column of G multiply-adds per setting."""
    model = config.model
    title = (
        f"X3D-{model.variant}, {input_size(config)} px, {config.data.num_classes} classes, pool {model.pool}, "
        f"fusion {model.fusion}: parameters and G multiply-adds for one video"
    )
    lengths = [f"{s.name}: T={s.coarse_frames}, T'={s.fine_frames}" for s in settings]
    rows: list[dict[str, str]] = []

    def add(name: str, parameters: str, multiply_adds: Iterable[int]) -> None:
        giga = [f"{number / 1e9:.3f}" for number in multiply_adds]
        rows.append({"": name, "parameters": parameters, **dict(zip(lengths, giga, strict=True))})

    def add_sums(name: str, settings: Sequence[Sequence[Count]]) -> None:
        ours = [sum(count.total for count in streams) for streams in settings]
        published = [sum(count.as_published for count in streams) for streams in settings]
        add(name, f"{sum(sum(count.parameters.values()) for count in settings[0]):,}", ours)
        if ours != published:
            add(f"{name}, as published", "", published)

    for stream in ("Fine", "Coarse"):
        counts = [s.counts[stream] for s in settings]
        add_sums(f"{stream} stream", [[count] for count in counts])
        for part, parameters in counts[0].parameters.items():
            add(f"  {part}", f"{parameters:,}", [count.multiply_adds[part] for count in counts])
    if model.fusion != "none":  # without fusion, the Fine stream is not used
        add_sums("both streams", [list(s.counts.values()) for s in settings])
    return f"{title}\n{format_table(rows, numbers=True)}"


# --- the paper's ------------------------------------------------------------------------------------------------------


def count_points() -> list[JsonObject]:
    """The points of the paper's figure and ours at equal lengths, in G."""
    frames = PUBLISHED.data.fine_frames
    fine, points = count_fine(PUBLISHED, frames), []
    for name, (paper, coarse) in POINTS.items():
        streams = [fine, count_coarse(replace(PUBLISHED, model=coarse), frames, frames)] if coarse else [fine]
        published, ours = sum(c.as_published for c in streams) / 1e9, sum(c.total for c in streams) / 1e9
        points.append({"name": name, "paper": paper, "as_published": published, "ours": ours})
    return points


def comparison(points: Sequence[JsonObject]) -> str:
    """Format a row per point, with a star for differences of more than 5%."""
    rows = []
    for point in points:
        published, ours = (point[key] / point["paper"] - 1 for key in ("as_published", "ours"))
        rows.append(
            {
                "": point["name"],
                "paper": f"{point['paper']}",
                "as published": f"{point['as_published']:.1f} ({published:+z.1%})",
                "ours": f"{point['ours']:.1f} ({ours:+z.1%})",
                " ": "*" if abs(ours) > WORTH_A_WORD else "",
            }
        )
    variant, frames = PUBLISHED.model.variant, PUBLISHED.data.fine_frames
    sizes = ", ".join(map(str, sides(VARIANTS[variant].size)))
    return "\n".join(
        [
            f"The paper's figure 1, G multiply-adds (X3D-{variant}, {input_size(PUBLISHED)} px, T=T'={frames})",
            format_table(rows, numbers=True),
            f"* fusion is computed on the 7x7 grid here and at {sizes} px in the published code, with equal results",
        ]
    )


# --- command line -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables. Returns 1 or exits with 2, with one line on stderr, if a file or an option is wrong."""
    parser = Parser(prog=PROG, description=None, add_help=False)
    parser.add_argument("--json", metavar="FILE", type=Path)
    given, options = parser.parse_known_args(argv)  # the rest are configuration options
    description = f"{__doc__.partition('.')[0]}. --json FILE writes the numbers to a file; -gpu has no effect."
    config = parse(options, prog=PROG, description=description).config
    return exit_status(PROG, lambda: run(config, given.json))


def run(config: Config, json_file: Path | None) -> None:
    """Count, print and write the results."""
    check_outputs([json_file] if json_file else [])
    settings, points = count_settings(config), count_points()
    print(f"{table(config, settings)}\n\n{comparison(points)}")
    if json_file:
        counted = {"settings": [asdict(s) for s in settings], "figure": points}
        write_json(json_file, {"data": asdict(config.data), "model": asdict(config.model), **counted})


if __name__ == "__main__":
    sys.exit(main())
