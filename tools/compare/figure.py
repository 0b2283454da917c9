"""Plot the AP of every class with its 95% interval: one panel per rule, one row per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from common.files import written_whole
from tools.compare.rules import Scored

ROW_INCHES, PANEL_INCHES, NAMES_INCHES = 0.17, 4.5, 3.5
BAND = 0.7  # fraction of a row's height used by its files
LONGEST_NAME = 50
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


@rc_context({"text.parse_math": False})  # names and paths are not formulas
def draw(path: Path, scored: Sequence[Scored], names: Sequence[str]) -> None:
    """Write the figure. Classes are sorted by the first file's AP under its first rule, highest first."""
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
        for row in range(0, len(names), 2):  # bands guide the eye from a name to its dot
            axes.axhspan(row - 0.5, row + 0.5, color="0.94", zorder=0, linewidth=0)
    for s in scored:  # a dot and an interval per class with positives; files are stacked within a row
        axes, number, AP = panels[s.rule], letters.index(s.letter), s.scores["AP"]
        rows = np.flatnonzero(s.positives[order] > 0)
        y, colour = rows + BAND * ((number + 0.5) / len(letters) - 0.5), COLOURS[number % len(COLOURS)]
        value, low, high = (100 * numbers[order[rows]] for numbers in (AP.value, *AP.interval()))
        axes.hlines(y, low, high, color=colour, linewidth=1, alpha=0.7)
        axes.plot(value, y, "o", color=colour, markersize=3, label=labels.pop(s.letter, None))
    short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in names]
    titles = [f"{short[c]}  ({scored[0].positives[c]})" for c in order]
    panels[rules[0]].set_yticks(range(len(names)), titles, fontsize=7)
    panels[rules[0]].set_ylim(len(names) - 0.5, -0.5)
    title = f"AP in % with 95% intervals; number of positives (rule {rules[0]}) in brackets"
    figure.legend(loc="outside upper left", fontsize=8, title=title, alignment="left")
    for axes in panels.values():
        axes.set_xlim(left=0)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix.removeprefix(".").lower())
