"""The time line of one video as a picture: activities as intervals, and below them every frame's probabilities.

Both share one time axis. The classes shown are those with an interval, in the order of their first one, so that a
video reads from the upper left to the lower right; without any interval, the most probable ones.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Interval = tuple[int, float, float, float]  # class from 0, start and end in seconds, score

ROW_INCHES, WIDTH_INCHES = 0.26, 10.0
COLOURS = "viridis"
LONGEST_NAME = 40


def timeline_figure(
    title: str,
    *,
    duration: float,
    probabilities: np.ndarray,
    intervals: Sequence[Interval],
    names: Sequence[str],
    chosen: Sequence[float] = (),
    most: int = 16,
) -> Figure:
    """Picture of one video's activities; `figure.savefig(path)` writes it.

    Args:
        duration: Seconds; the time axis.
        probabilities: (C,L) in [0,1]; column k lasts from k to k+1 L-ths of the duration.
        intervals: Of any classes; times beyond the video are cut off.
        names: (C,) of the classes.
        chosen: Seconds of the frames that Grid Pool chose; ticks above the picture.
        most: Rows at most; with more classes than that, the ones left out are counted below the picture.
    """
    probabilities = np.asarray(probabilities, float)
    if probabilities.ndim != 2 or len(probabilities) != len(names) or not probabilities.size or not duration > 0:
        raise ValueError(f"probabilities {probabilities.shape} of {len(names)} classes over {duration} s")
    classes = choose_classes(probabilities, intervals, most)
    rows = {label: row for row, label in enumerate(classes)}

    figure = Figure(figsize=(WIDTH_INCHES, 1.8 + 2 * ROW_INCHES * len(classes)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    draw_intervals(above, [(rows[label], *rest) for label, *rest in intervals if label in rows])
    image = below.imshow(
        probabilities[classes], aspect="auto", interpolation="nearest", cmap=COLOURS, vmin=0, vmax=1,
        extent=(0, duration, len(classes) - 0.5, -0.5),
    )  # fmt: skip
    figure.colorbar(image, ax=below, label="probability", pad=0.01)
    draw_chosen(above, chosen)

    above.set_yticks(range(len(classes)), [plain(names[label]) for label in classes])
    above.set_ylim(len(classes) - 0.5, -0.5)
    above.set_xlim(0, duration)
    above.set_title(plain(title), loc="left")
    below.set_xlabel("seconds" + left_out(len(names) - len(classes)))
    return figure


def choose_classes(probabilities: np.ndarray, intervals: Sequence[Interval], most: int) -> list[int]:
    """The classes to show, in the order of their first interval; of more than `most`, those with the highest scores.

    Without any interval, the most probable classes, so that the picture says what the network saw.
    """
    first: dict[int, float] = {}
    score: dict[int, float] = {}
    for label, start, _, value in intervals:
        first[label] = min(start, first.get(label, start))
        score[label] = max(value, score.get(label, value))
    peaks = probabilities.max(1)
    ranked = sorted(range(len(peaks)), key=lambda label: (label not in score, -score.get(label, peaks[label]), label))
    kept = ranked[: max(1, min(most, len(score) or most))]
    return sorted(kept, key=lambda label: (first.get(label, np.inf), label))


def draw_intervals(axes: Axes, intervals: Sequence[tuple[int, float, float, float]]) -> None:
    """Bars (row, start, end, score), darker for a higher score; the score is written where there is room."""
    for row, start, end, score in intervals:
        strength = min(1.0, max(0.0, score))
        axes.barh(row, end - start, left=start, height=0.72, color="tab:blue", alpha=0.25 + 0.75 * strength)
        axes.text(
            start, row, f" {score:.2f}", va="center", fontsize="x-small", clip_on=True,
            color="white" if strength > 0.5 else "black",
        )  # fmt: skip
    if not intervals:
        axes.text(0.5, 0.5, "no activity", transform=axes.transAxes, ha="center", va="center", color="0.5")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def draw_chosen(axes: Axes, seconds: Sequence[float]) -> None:
    """A tick above the panel for each frame that Grid Pool chose."""
    if len(seconds):
        ticks = axes.secondary_xaxis("top")
        ticks.set_xticks(list(seconds), labels=[])
        ticks.tick_params(length=7, color="tab:red")
        ticks.set_xlabel("ticks: frames that Grid Pool chose", loc="right", fontsize="small")


def plain(name: str) -> str:
    """A name of tolerable length in which matplotlib sees no formula."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")


def left_out(count: int) -> str:
    return f" ({count} more {'class' if count == 1 else 'classes'} not shown)" if count else ""
