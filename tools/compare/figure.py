"""AP of every class with its 95% interval as a picture: a panel for each rule, a row for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from common.errors import InputError
from common.files import written_whole
from tools.compare.rules import Scored

ROW_INCHES, PANEL_INCHES, NAMES_INCHES = 0.17, 4.5, 3.5
BAND = 0.7  # of a row's height, shared by its files
LONGEST_NAME = 50
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


def check_format(path: Path) -> None:
    """An error where no picture can have this ending."""
    if path.suffix.removeprefix(".").lower() not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: not the name of a picture; let it end in .png, .pdf or .svg")


@rc_context({"text.parse_math": False})  # no formulas in names and paths
def draw(path: Path, scored: Sequence[Scored], names: Sequence[str]) -> None:
    """Write the picture; classes in the order of the first file's AP by its first rule, highest on top."""
    rules = list(dict.fromkeys(s.rule for s in scored))
    labels = {s.letter: f"{s.letter}  {s.path}" for s in scored}
    letters = list(labels)
    order = np.argsort(-np.nan_to_num(scored[0].scores["AP"].value, nan=-1), kind="stable")
    height = 1.5 + ROW_INCHES * len(names) * max(1, len(letters) / 2)
    figure = Figure(figsize=(NAMES_INCHES + PANEL_INCHES * len(rules), height), layout="constrained")
    panels = dict(zip(rules, figure.subplots(1, len(rules), sharey=True, squeeze=False)[0], strict=True))
    for rule, axes in panels.items():
        axes.set_title(f"rule {rule}")
        axes.tick_params(axis="x", top=True, labeltop=True)
        axes.grid(axis="x", alpha=0.4)
        for row in range(0, len(names), 2):  # bands lead the eye from a name to its dot
            axes.axhspan(row - 0.5, row + 0.5, color="0.94", zorder=0, linewidth=0)
    for s in scored:
        number = letters.index(s.letter)
        offset, colour = BAND * ((number + 0.5) / len(letters) - 0.5), COLOURS[number % len(COLOURS)]
        _draw_file(panels[s.rule], s, order, offset, color=colour, label=labels.pop(s.letter, None))
    short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in names]
    titles = [f"{short[c]}  ({scored[0].positives[c]})" for c in order]
    panels[rules[0]].set_yticks(range(len(names)), titles, fontsize=7)
    panels[rules[0]].set_ylim(len(names) - 0.5, -0.5)
    title = f"AP in % with 95% intervals; in brackets the positives by rule {rules[0]}"
    figure.legend(loc="outside upper left", fontsize=8, title=title, alignment="left")
    for axes in panels.values():
        axes.set_xlim(left=0)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix.removeprefix(".").lower())


def _draw_file(axes: Axes, s: Scored, order: np.ndarray, offset: float, *, color: str, label: str | None) -> None:
    """A dot and an interval for each class that has positives, so much below the middle of its row."""
    AP = s.scores["AP"]
    rows = np.flatnonzero(s.positives[order] > 0)
    low, high = AP.interval()
    classes, y = order[rows], rows + offset
    axes.hlines(y, 100 * low[classes], 100 * high[classes], color=color, linewidth=1, alpha=0.7)
    axes.plot(100 * AP.value[classes], y, "o", color=color, markersize=3, label=label)
