"""The output of `tools.compare`: percent on the console, fractions in CSV and JSON."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import JsonObject, write_json, written_whole
from eval.bootstrap import Sampled, percentile_interval
from tools.compare.rules import Scored
from tools.tables import format_table

SHOWN = 10  # number of classes on the console
COLUMNS = ("rule", "predictions", "class", "name", "positives", "AP", "low", "high",
           "difference", "difference_low", "difference_high")  # fmt: skip


# --- console ----------------------------------------------------------------------------------------------------------


def summary(scored: Sequence[Scored]) -> str:
    """Format the means: a row per rule and mean, a column per file and per difference from the first."""
    letters = {s.letter: s.path for s in scored}
    first, *others = letters
    columns = ["", first, *others, *(f"{letter} - {first}" for letter in others)]
    rows: dict[str, dict[str, str]] = {}
    for s in scored:
        for title, found in ((s.letter, s.scores), (f"{s.letter} - {first}", s.differences)):
            for name, score in found.items():
                if score.is_mean:
                    row = f"{s.rule}, {name}"
                    rows.setdefault(row, dict.fromkeys(columns, "") | {"": row})[title] = shown(score)
    files = "\n".join(f"{letter}  {path}" for letter, path in letters.items())
    return f"{files}\n\n{format_table(list(rows.values()))}"


def shown(sampled: Sampled) -> str:
    """`25.10 [24.20, 26.03]` in percent, with a star if the interval of a difference excludes 0."""
    low, high = sampled.interval()
    if np.isnan(sampled.value):
        return "undefined"
    form = "+.2f" if sampled.is_difference else ".2f"
    value, lowest, highest = (format(100 * float(number), form) for number in (sampled.value, low, high))
    return f"{value} [{lowest}, {highest}]" + ("*" if sampled.is_difference and (low > 0 or high < 0) else "")


def by_class(scored: Sequence[Scored], names: Sequence[str]) -> Iterator[str]:
    """Yield lines for classes by the first rule: the largest differences, or for one file the best and worst."""
    first, *others = (s for s in scored if s.rule == scored[0].rule)
    titles = [f"{name} ({positives} positives)" for name, positives in zip(names, first.positives, strict=True)]
    AP = first.scores["AP"]
    if not others:
        order = [c for c in np.argsort(-AP.value, kind="stable") if first.positives[c]]
        lines = [f"  {shown(AP.of_class(c)):26} {titles[c]}" for c in order]
        yield f"\nAP by class, rule {first.rule}:"
        yield from lines if len(lines) <= SHOWN else [*lines[: SHOWN // 2], "  ...", *lines[-SHOWN // 2 :]]
    for s in others:
        difference = s.differences["AP"]
        yield f"\nLargest differences by rule {s.rule}, {s.letter} - {first.letter}:"
        for c in np.argsort(-np.nan_to_num(np.abs(difference.value)), kind="stable")[:SHOWN]:
            scores = f"{100 * AP.value[c]:6.2f} -> {100 * s.scores['AP'].value[c]:6.2f}"
            yield f"  {scores}  {shown(difference.of_class(c)):26} {titles[c]}"
        low, high = difference.interval()
        yield (
            f"  95% interval above 0 for {int((low > 0).sum())} classes, below 0 for {int((high < 0).sum())}; "
            f"by chance, about {round(0.05 * len(names))} of {len(names)} would exclude 0"
        )


# --- files ------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, scored: Sequence[Scored], names: Sequence[str]) -> None:
    """Write one line per rule, file and class. Differences are from the first file. Undefined values are empty."""
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for s in scored:
            sampled = [found["AP"] for found in (s.scores, s.differences) if found]
            columns = [_numbers(column) for AP in sampled for column in (AP.value, *AP.interval())]
            for c, (name, *numbers) in enumerate(zip(names, *columns, strict=True)):
                line = (s.rule, s.path, c, name, int(s.positives[c]), *numbers)
                table.writerow(dict(zip(COLUMNS, line, strict=False)))


def write_comparison(path: Path, scored: Sequence[Scored], names: Sequence[str], about: Mapping[str, object]) -> None:
    """Write all results except the resamples as JSON. Undefined values are null."""
    predictions, differences = defaultdict[str, JsonObject](dict), defaultdict[str, JsonObject](dict)
    for s in scored:
        about_videos = {
            "videos": s.videos,
            "positives": s.positives.tolist(),
            "classes_without_positives": np.flatnonzero(s.positives == 0).tolist(),
        }
        predictions[s.path][s.rule] = about_videos | _estimates(s.scores)
        if s.differences:
            differences[s.path][s.rule] = _estimates(s.differences)
    files = [{"path": path, "rules": rules} for path, rules in predictions.items()]
    to_first = [{"path": path, "minus": scored[0].path, "rules": rules} for path, rules in differences.items()]
    write_json(path, {**about, "classes": list(names), "predictions": files, "differences": to_first})


def _estimates(scores: Mapping[str, Sampled]) -> dict[str, JsonObject]:
    """{name: {"value", "low", "high"}}: numbers, or lists over the classes for "AP"."""
    estimates = {}
    for name, sampled in scores.items():
        low, high = sampled.interval()
        numbers = {"value": sampled.value, "low": low, "high": high}
        if sampled.is_mean:  # for comparison with other tools
            numbers["percentile_low"], numbers["percentile_high"] = percentile_interval(sampled.resamples)
        estimates[name] = {key: _numbers(value) for key, value in numbers.items()}
    return estimates


def _numbers(values: np.ndarray) -> Any:  # nested lists, as deep as the array
    """A number or list of numbers, as from `tolist`, with None for NaN."""
    return np.where(np.isnan(values), np.array(None), values).tolist()
