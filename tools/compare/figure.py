"""AP of every class with its 95% interval as a picture: a panel for each rule, a row for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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


def draw(path: Path, scored: Sequence[Scored], names: Sequence[str]) -> None:
    """Write the picture; classes in the order of the first file's AP by its first rule, highest on top."""
    rules = list(dict.fromkeys(s.rule for s in scored))
    letters = list(dict.fromkeys(s.letter for s in scored))
    order = np.argsort(-np.nan_to_num(scored[0].scores["AP"].value, nan=-1), kind="stable")
    height = 1.5 + ROW_INCHES * len(names) * max(1, len(letters) / 2)
    figure = Figure(figsize=(NAMES_INCHES + PANEL_INCHES * len(rules), height), layout="constrained")
    panels = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, rule in zip(panels, rules, strict=True):
        for s in (s for s in scored if s.rule == rule):
            _draw_file(axes, s, order, letters)
        _dress(axes, rule, len(names))
    labels = [f"{_short(names[c])}  ({int(scored[0].positives[c])})" for c in order]
    panels[0].set_yticks(range(len(names)), labels, fontsize=7)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    title = f"AP in % with 95% intervals; in brackets the positives by rule {rules[0]}"
    figure.legend(*_legend(panels), loc="outside upper left", fontsize=8, title=title, alignment="left")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix.removeprefix(".").lower())


def _draw_file(axes: Axes, s: Scored, order: np.ndarray, letters: Sequence[str]) -> None:
    """A dot and an interval for each class that has positives; files one below the other within a row."""
    number, AP = letters.index(s.letter), s.scores["AP"]
    rows = np.flatnonzero(s.positives[order] > 0)
    classes = order[rows]
    low, high = AP.interval()
    y = rows + BAND * ((number + 0.5) / len(letters) - 0.5)
    colour = COLOURS[number % len(COLOURS)]
    axes.hlines(y, 100 * low[classes], 100 * high[classes], color=colour, linewidth=1, alpha=0.7)
    label = f"{s.letter}  {_plain(s.path)}"
    axes.plot(100 * AP.value[classes], y, "o", color=colour, markersize=3, label=label)


def _dress(axes: Axes, rule: str, num_classes: int) -> None:
    axes.set_title(f"rule {rule}")
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.grid(axis="x", alpha=0.4)
    for row in range(0, num_classes, 2):  # bands lead the eye from a name to its dot
        axes.axhspan(row - 0.5, row + 0.5, color="0.94", zorder=0, linewidth=0)


def _legend(panels: Sequence[Axes]) -> tuple[list, list]:
    """One entry for each file, from whichever panel has it."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _short(name: str) -> str:
    return _plain(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "...")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # no formulas
