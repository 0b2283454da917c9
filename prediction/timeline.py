"""The time line of one video as a picture: activities as bars, and below them every frame's probabilities.

Both share one time axis. The classes shown are those with an activity, in the order of their first one, so that a
video reads from the upper left to the lower right; without any activity, the most probable ones.
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
    """Picture of one video's activities; `figure.savefig(path)` writes it.

    Args:
        probabilities: (C,L) in [0,1]; column k lasts from k/fps to (k+1)/fps seconds.
        activities: Of any classes; times beyond the video are cut off.
        names: (C,) of the classes. At most 16 are shown; those left out are counted below the picture.
        chosen: Video frames, from 1, that Grid Pool chose; ticks above the picture.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(names) or not probabilities.size:
        raise ValueError(f"probabilities {probabilities.shape} of {len(names)} classes")
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
    """The classes to show, in the order of their first activity; of more than `most`, those with the highest scores.

    Without any activity, the most probable classes, so that the picture says what the network saw.
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
    """Bars in the rows of their classes, darker for a higher score; the score is written where there is room."""
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
    """Scores (C,L) in [0,1], a row for each class, each shown from its own time to the next."""
    extent = (0, seconds, len(scores) - 0.5, -0.5)
    return axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=extent, interpolation="nearest")


def draw_chosen_frames(axes: Axes, frames: Sequence[float], fps: float) -> None:
    """A tick above the panel, whose axis is in seconds, for each video frame (from 1) that Grid Pool chose."""
    if frames:
        ticks = axes.secondary_xaxis("top")
        ticks.set_xticks([(frame - 1) / fps for frame in frames], labels=[])
        ticks.tick_params(length=7, color="tab:red")
        ticks.set_xlabel("ticks: frames that Grid Pool chose", loc="right", fontsize="small")


def plain(name: str) -> str:
    """A name of tolerable length in which matplotlib sees no formula."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")
