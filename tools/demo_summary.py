"""Summarize the demo: both streams compared with chance, overall and on context activities, and a plot of two videos.

    python -m tools.demo_summary runs/demo data/demo

Scores are read from metrics.json. Chance is the fraction of the scored frames in which a class is present, which is the
expected AP of random scores. Averages over classes are unweighted.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.arguments import Parser, check_outputs, exit_status
from common.errors import InputError
from common.files import written_whole
from configs.cli import load
from configs.schema import Config
from datasets.clips import find_videos, frame_labels, video_length
from datasets.demo.__main__ import ANNOTATIONS, GROUND_TRUTH
from datasets.demo.scene import CLASSES, FPS
from datasets.kinds import CHARADES
from eval.charades_localize import Truth, read_ground_truth, read_predictions
from eval.per_frame import released_frames
from prediction.timeline import draw_chosen_frames, draw_scores
from tools.runs import STREAMS, context_classes, official_labels, read_json, read_metrics

RULES = ("official", "released")
TIMES_CHANCE = 3
C = len(CLASSES)

Scores = Mapping[str, np.ndarray]  # one row of the table: AP per class (C,) as fractions, by rule


def mean_percent(AP: np.ndarray, classes: Sequence[int] | slice = slice(None)) -> float:
    """Mean over the classes with positives, in percent."""
    return 100 * float(np.nanmean(AP[classes]))


def chance_scores(config: Config, data: Path, truth: Mapping[str, Truth]) -> Scores:
    """The positive rate of each class in the test videos, over the frames scored by each rule."""
    stride = config.data.stride
    released = []
    tested = CHARADES.load(data / ANNOTATIONS, C).subset("testing")
    for video, n in find_videos(tested, data / "frames", min_frames=config.data.min_frames).videos:
        L = min(n, video_length(n, stride) * stride)
        released.append(frame_labels(video, n, C).numpy().T[released_frames(L)])
    return {"official": official_labels(truth, C).mean(0), "released": np.concatenate(released).mean(0)}


def table(rows: Mapping[str, Scores], context: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the table: mean AP in percent by rule, over all, context and other classes."""
    others = [label for label in range(C) if label not in context]
    yield "mean AP in percent " + "".join(f"{f'rule {rule}':>30}" for rule in RULES)
    yield " " * 19 + "       all   context    others" * len(RULES)
    for name, AP in rows.items():
        means = [mean_percent(AP[rule], classes) for rule in RULES for classes in (slice(None), context, others)]
        yield f"{name:19}" + "".join(f"{mean:10.1f}" for mean in means)


def verdicts(rows: Mapping[str, Scores], context: Sequence[int]) -> Iterator[str]:
    """Yield one line per rule and claim: whether the demo's results support it."""
    for rule in RULES:
        chance, fine, coarse = (AP[rule] for AP in rows.values())
        times = [mean_percent(AP) / mean_percent(chance) for AP in (fine, coarse)]
        margin = mean_percent(coarse, context) - mean_percent(fine, context)
        shown = ", ".join(f"{name} {factor:.1f}" for name, factor in zip(STREAMS.values(), times, strict=True))
        for holds, claim in (
            (min(times) >= TIMES_CHANCE, f"both streams at least {TIMES_CHANCE} times chance ({shown} times)"),
            (margin > 0, f"Coarse-Fine above Fine on context activities ({margin:+.1f})"),
        ):
            yield f"rule {rule}: {'passed' if holds else 'FAILED'}: {claim}"


def draw(run: Path, truth: Mapping[str, Truth], output: Path, context: Sequence[int]) -> None:
    """Plot the ground truth and both streams' scores over time, for one test video per cue."""
    scores = {stage: read_predictions(run / stage / "predictions" / "official.txt", C) for stage in STREAMS}
    grid = run / "coarse" / "predictions" / "grid.json"
    chosen = read_json(grid, dict[str, list[float]]) if grid.is_file() else {}

    of_cue: dict[frozenset[int], str] = {}  # the first video with each set of context activities
    for video, (actions, _) in truth.items():
        of_cue.setdefault(frozenset(label for label, _, _ in actions) & set(context), video)
    videos = list(of_cue.values())[:2]
    figure = Figure(figsize=(6.4 * len(videos), 9), layout="constrained")
    panels = figure.subplots(1 + len(STREAMS), len(videos), sharey=True, squeeze=False)
    for column, video in enumerate(videos):
        actions, length = truth[video]
        top, *below = panels[:, column]
        for label, start, end in actions:
            colour = "tab:orange" if label in context else "tab:blue"
            top.barh(label, end - start, left=start, height=0.8, color=colour)
        top.set_title(f"{video}: ground truth")
        for axes, (stage, name) in zip(below, STREAMS.items(), strict=True):
            image = draw_scores(axes, scores[stage][video].T, length)
            axes.set_title(name)
        draw_chosen_frames(below[-1], chosen.get(video, []), FPS)
        below[-1].set_xlabel("seconds")
        for axes in panels[:, column]:
            axes.set_xlim(0, length)
    panels[0, 0].set_yticks(range(C), CLASSES)
    panels[0, 0].set_ylim(C - 0.5, -0.5)
    kinds = {"tab:orange": "context activity", "tab:blue": "other activity"}
    panels[0, -1].legend(handles=[Patch(color=colour, label=kind) for colour, kind in kinds.items()], fontsize="small")
    figure.colorbar(image, ax=panels[1:], label="score", shrink=0.5)
    with written_whole(output) as partial:
        figure.savefig(partial, dpi=100, format="png")


def main(argv: list[str] | None = None) -> int:
    """Print the table and write the figure. Returns 1 with one line on stderr if a result is missing."""
    parser = Parser(prog="python -m tools.demo_summary", description="Print the demo's results and draw its figure.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="run folder, such as runs/demo")
    parser.add_argument("data", metavar="DATA_DIR", type=Path, help="generated dataset, such as data/demo")
    parser.add_argument("--output", metavar="PNG", type=Path, help="figure to write (default: RUN_DIR/demo.png)")
    args = parser.parse_args(argv)
    output = args.output or args.run / "demo.png"
    if output.suffix != ".png":
        parser.error(f"--output {output}: must end in .png")

    def work() -> None:
        check_outputs([output])
        config = load(args.run / "fine" / "config.yaml")
        context = context_classes(args.data / ANNOTATIONS)
        if config.data.num_classes != C or context is None:
            wrong = args.data if context is None else args.run / "fine" / "config.yaml"
            raise InputError(f"{wrong}: not written by the demo; run the demo again")
        truth = read_ground_truth(args.data / GROUND_TRUTH, C)
        rows = {"chance": chance_scores(config, args.data, truth)}
        for stage, name in STREAMS.items():
            metrics = read_metrics(args.run / stage / "metrics.json")
            rows[name] = {rule: np.array(metrics[f"AP_{rule}"], float) for rule in RULES}
        print("\n".join([*table(rows, context), "", *verdicts(rows, context)]))
        draw(args.run, truth, output, context)
        print(f"figure: {output}")

    return exit_status("demo_summary", work)


if __name__ == "__main__":
    sys.exit(main())
