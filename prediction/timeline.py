"""Draw the timeline of a video: activities as bars above the probabilities of every frame.

Both share one time axis. Classes with an activity are shown in the order of their first activity, so that a video reads
from the upper left to the lower right; without activities, the most probable classes are shown.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from common.text import counted
from prediction.activities import Activity

ROW_INCHES, WIDTH_INCHES = 0.26, 10.0
LONGEST_NAME = 40
MOST_CLASSES = 16


def timeline_figure(
    title: str,
    *,
    probabilities: np.ndarray,
    fps: float,
    activities: Sequence[Activity],
    names: Sequence[str],
    chosen: Sequence[float] = (),
) -> Figure:
    """Draw the activities of a video; `figure.savefig(path)` writes the figure.

    Args:
        probabilities: (C,L) in [0,1]; column k lasts from k/fps to (k+1)/fps seconds.
        activities: Activities of any classes; times are clipped to the video.
        names: (C,) class names. At most 16 classes are shown; the number of others is given below the figure.
        chosen: Video frames (from 1) selected by Grid Pool; drawn as ticks above the figure.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(names) or not probabilities.size:
        raise ValueError(f"probabilities {probabilities.shape} for {len(names)} classes")
    classes = choose_classes(probabilities, activities, MOST_CLASSES)
    seconds = probabilities.shape[1] / fps

    figure = Figure(figsize=(WIDTH_INCHES, 1.8 + 2 * ROW_INCHES * len(classes)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    draw_activities(above, activities, classes)
    image = draw_scores(below, probabilities[classes], seconds)
    figure.colorbar(image, ax=below, label="probability", pad=0.01)
    draw_chosen_frames(above, chosen, fps)

    above.set_yticks(range(len(classes)), [plain(names[label]) for label in classes])
    above.set_ylim(len(classes) - 0.5, -0.5)
    above.set_xlim(0, seconds)
    above.set_title(plain(title), loc="left")
    more = counted(len(names) - len(classes), "more class")
    below.set_xlabel("seconds" if len(names) == len(classes) else f"seconds ({more} not shown)")
    return figure


def choose_classes(probabilities: np.ndarray, activities: Sequence[Activity], most: int) -> list[int]:
    """Return at most `most` classes with the highest scores, in the order of their first activity.

    Without activities, the most probable classes are returned.
    """
    first: dict[int, float] = {}
    score: dict[int, float] = {}
    for label, start, _, value in activities:
        first[label] = min(start, first.get(label, start))
        score[label] = max(value, score.get(label, value))
    peaks = probabilities.max(1)
    ranked = sorted(range(len(peaks)), key=lambda label: (label not in score, -score.get(label, peaks[label]), label))
    return sorted(ranked[: min(most, len(score) or most)], key=lambda label: (first.get(label, np.inf), label))


def draw_activities(axes: Axes, activities: Sequence[Activity], classes: Sequence[int]) -> None:
    """Draw bars in the rows of their classes, darker for higher scores, with the scores as text."""
    for label, start, end, score in activities:
        if label not in classes:
            continue
        row, strength = classes.index(label), min(1.0, max(0.0, score))
        axes.barh(row, end - start, left=start, height=0.72, color="tab:blue", alpha=0.25 + 0.75 * strength)
        axes.text(
            start, row, f" {score:.2f}", va="center", fontsize="x-small", clip_on=True,
            color="white" if strength > 0.5 else "black",
        )  # fmt: skip
    if not activities:
        axes.text(0.5, 0.5, "no activity", transform=axes.transAxes, ha="center", va="center", color="0.5")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def draw_scores(axes: Axes, scores: np.ndarray, seconds: float) -> AxesImage:
    """Draw scores (C,L) in [0,1], one row per class; each column spans the time until the next."""
    extent = (0, seconds, len(scores) - 0.5, -0.5)
    return axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest")


def draw_chosen_frames(axes: Axes, frames: Sequence[float], fps: float) -> None:
    """Draw a tick above the panel, at its time in seconds, for each video frame (from 1) selected by Grid Pool."""
    if frames:
        ticks = axes.secondary_xaxis("top")
        ticks.set_xticks([(frame - 1) / fps for frame in frames], labels=[])
        ticks.tick_params(length=7, color="tab:red")
        ticks.set_xlabel("ticks: frames selected by Grid Pool", loc="right", fontsize="small")


def plain(name: str) -> str:
    """Shorten a name and escape it for matplotlib's math mode."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")
