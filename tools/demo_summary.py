"""What the demo has shown: both streams beside chance, context activities apart, and a picture of two test videos.

    python -m tools.demo_summary runs/demo data/demo

Scores are those of the runs' metrics.json. Chance is the share of frames in which a class is present, among the frames
that the rule scores: the AP to be expected of random scores. Averages over classes are plain.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import written_whole
from datasets.clips import find_videos, frame_labels, video_length
from datasets.demo.__main__ import ANNOTATIONS, GROUND_TRUTH, SUMMARY
from datasets.demo.scene import FPS
from datasets.kinds import CHARADES
from eval import charades_localize
from eval.per_frame import released_frames

RULES = ("official", "released")
STREAMS = {"fine": "Fine stream", "coarse": "Coarse-Fine"}
TIMES_CHANCE = 3


@dataclass(frozen=True)
class Scores:
    """Of one row of the table: AP of every class (C,) by rule, as fractions."""

    name: str
    AP: dict[str, np.ndarray]

    def mean(self, rule: str, classes: np.ndarray | slice = slice(None)) -> float:
        """In percent, over the classes that have positives."""
        return 100 * float(np.nanmean(self.AP[rule][classes]))


# --- scores -----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """One line for whatever reading a damaged file, or one of another kind, trips over."""
    try:
        yield
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not what the demo writes there ({error}); run the demo again") from None


def stream_scores(run: Path, stage: str) -> Scores:
    path = run / stage / "metrics.json"
    with damage_named(path):
        metrics = read_json(path)
        return Scores(STREAMS[stage], {rule: np.array(metrics[f"AP_{rule}"], float) for rule in RULES})


def chance_scores(run: Path, data: Path) -> Scores:
    """The positive rate of every class in the test videos at the frames of each rule."""
    names = CHARADES.class_names(data / ANNOTATIONS)
    path = run / "fine" / "config.yaml"
    with damage_named(path):
        data_options = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
        min_frames, stride = data_options["min_frames"], data_options["stride"]
    truth = charades_localize.read_ground_truth(data / GROUND_TRUTH, len(names))
    official = [charades_localize.frame_labels(*known, len(names)) for known in truth.values()]
    released = []
    tested = CHARADES.load(data / ANNOTATIONS, len(names)).subset("testing")
    for video, n in find_videos(tested, data / "frames", min_frames=min_frames).videos:
        L = min(n, video_length(n, stride) * stride)
        released.append(frame_labels(video, n, len(names)).numpy().T[released_frames(L)])
    labels = {"official": official, "released": released}
    return Scores("chance", {rule: np.concatenate(videos).mean(0) for rule, videos in labels.items()})


def table(rows: list[Scores], context: np.ndarray) -> Iterator[str]:
    """Lines of mean AP in percent: rows by rule, over all classes and over the context classes."""
    others = np.setdiff1d(np.arange(len(rows[0].AP[RULES[0]])), context)
    yield "mean AP in percent " + "".join(f"{f'rule {rule}':>30}" for rule in RULES)
    yield " " * 19 + "       all   context    others" * len(RULES)
    for row in rows:
        means = [row.mean(rule, classes) for rule in RULES for classes in (slice(None), context, others)]
        yield f"{row.name:19}" + "".join(f"{mean:10.1f}" for mean in means)


def verdicts(chance: Scores, fine: Scores, coarse: Scores, context: np.ndarray) -> Iterator[str]:
    """Whether the demo showed what it is for, as it came out."""
    for rule in RULES:
        times = [scores.mean(rule) / chance.mean(rule) for scores in (fine, coarse)]
        yield (
            f"rule {rule}: {_holds(min(times) >= TIMES_CHANCE)}: both streams at least {TIMES_CHANCE} times chance "
            f"({fine.name} {times[0]:.1f}, {coarse.name} {times[1]:.1f} times)"
        )
        margin = coarse.mean(rule, context) - fine.mean(rule, context)
        yield f"rule {rule}: {_holds(margin > 0)}: Coarse-Fine above Fine on context activities ({margin:+.1f})"


def _holds(condition: bool) -> str:
    return "holds" if condition else "DOES NOT HOLD"


# --- picture ----------------------------------------------------------------------------------------------------------


def draw(run: Path, data: Path, output: Path, context: list[int]) -> None:
    """Ground truth and both streams' scores over time, for one test video of each cue."""
    names = CHARADES.class_names(data / ANNOTATIONS)
    truth = charades_localize.read_ground_truth(data / GROUND_TRUTH, len(names))
    scores = {
        stage: charades_localize.read_predictions(run / stage / "predictions" / "official.txt", len(names))
        for stage in STREAMS
    }
    grid = run / "coarse" / "predictions" / "grid.json"
    with damage_named(grid):
        chosen = dict(read_json(grid)) if grid.is_file() else {}

    videos = choose_videos(truth, context)
    figure = Figure(figsize=(6.4 * len(videos), 9), layout="constrained")
    panels = figure.subplots(1 + len(STREAMS), len(videos), sharey=True, squeeze=False)
    for column, video in enumerate(videos):
        actions, length = truth[video]
        top, *below = panels[:, column]
        draw_truth(top, actions, context)
        top.set_title(f"{video}: ground truth")
        for axes, (stage, name) in zip(below, STREAMS.items(), strict=True):
            image = draw_scores(axes, scores[stage][video], length)
            axes.set_title(name)
        draw_grid(below[-1], chosen.get(video, []))
        below[-1].set_xlabel("seconds")
        for axes in panels[:, column]:
            axes.set_xlim(0, length)
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
    kinds = {"tab:orange": "context activity", "tab:blue": "other activity"}
    panels[0, -1].legend(handles=[Patch(color=colour, label=kind) for colour, kind in kinds.items()], fontsize="small")
    figure.colorbar(image, ax=panels[1:], label="score", shrink=0.5)
    with written_whole(output) as partial:
        figure.savefig(partial, dpi=100, format="png")


def choose_videos(truth: dict[str, charades_localize.Truth], context: list[int]) -> list[str]:
    """The first test video with each set of context activities: one for each cue."""
    first: dict[frozenset[int], str] = {}
    for video, (actions, _) in truth.items():
        first.setdefault(frozenset(label for label, _, _ in actions) & set(context), video)
    return list(first.values())[:2]


def draw_truth(axes: Axes, actions: list[tuple[int, float, float]], context: list[int]) -> None:
    for label, start, end in actions:
        axes.barh(label, end - start, left=start, height=0.8, color="tab:orange" if label in context else "tab:blue")


def draw_scores(axes: Axes, scores: np.ndarray, length: float) -> AxesImage:
    """Scores (25,C), each shown from its own time to the next."""
    extent = (0, length, scores.shape[1] - 0.5, -0.5)
    return axes.imshow(scores.T, aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest")


def draw_grid(axes: Axes, frames: list[float]) -> None:
    """A tick above the panel for each frame that Grid Pool chose; video frames count from 1."""
    if frames:
        above = axes.secondary_xaxis("top")
        above.set_xticks([(frame - 1) / FPS for frame in frames], labels=[])
        above.tick_params(length=7, color="tab:red")
        axes.set_title(axes.get_title() + " (ticks: frames that Grid Pool chose)", pad=12)


def main(argv: list[str] | None = None) -> int:
    """Print the table, write the picture; 1 with one line on stderr where a result is missing."""
    parser = Parser(prog="python -m tools.demo_summary", description="Table and picture of the demo.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the run, such as runs/demo")
    parser.add_argument("data", metavar="DATA_DIR", type=Path, help="the generated dataset, such as data/demo")
    parser.add_argument("--output", metavar="PNG", type=Path, help="the picture (default: RUN_DIR/demo.png)")
    args = parser.parse_args(argv)
    output = args.output or args.run / "demo.png"
    if output.suffix != ".png":
        parser.error(f"--output {output}: a name that ends in .png")

    def work() -> None:
        check_outputs([output])
        with damage_named(args.data / SUMMARY):
            context = [int(label) for label in read_json(args.data / SUMMARY)["context_classes"]]
        rows = [chance_scores(args.run, args.data), *(stream_scores(args.run, stage) for stage in STREAMS)]
        print("\n".join([*table(rows, np.array(context)), "", *verdicts(*rows, np.array(context))]))
        draw(args.run, args.data, output, context)
        print(f"picture: {output}")

    return exit_status("demo_summary", work)


if __name__ == "__main__":
    sys.exit(main())
