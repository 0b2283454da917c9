"""What `tools.compare` prints, in percent, and writes as CSV and JSON, in fractions."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_text, written_whole
from eval.bootstrap import percentile_interval
from tools.compare.rules import Sampled, Scored

SHOWN = 10  # classes on the console
COLUMNS = ("rule", "predictions", "class", "name", "positives", "AP", "low", "high",
           "difference", "difference_low", "difference_high")  # fmt: skip


def pairs(scored: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """(later, first): each file's scores beside those of the first file, by the same rule."""
    first = {s.rule: s for s in scored if s.path == scored[0].path}
    return [(s, first[s.rule]) for s in scored if s.path != scored[0].path and s.rule in first]


# --- console ----------------------------------------------------------------------------------------------------------


def summary(scored: Sequence[Scored], letters: dict[str, str]) -> Iterator[str]:
    """Lines with the means: a row for each rule and mean, a column for each file and each difference to the first."""
    yield from (f"{letter}  {path}" for path, letter in letters.items())
    first = next(iter(letters.values()))
    header = list(letters.values()) + [f"{letter} - {first}" for letter in list(letters.values())[1:]]
    yield f"\n{'':28}" + "".join(f"{title:24}" for title in header).rstrip()
    cells: dict[str, dict[str, str]] = {}
    for s in scored:
        for name, mean in s.means.items():
            cells.setdefault(f"{s.rule}, {name}", {})[letters[s.path]] = shown(mean)
    for s, base in pairs(scored):
        for name in s.means.keys() & base.means.keys():
            difference = s.means[name].minus(base.means[name])
            cells[f"{s.rule}, {name}"][f"{letters[s.path]} - {first}"] = shown(difference)
    for row, by_column in cells.items():
        yield f"{row:28}" + "".join(f"{by_column.get(title, ''):24}" for title in header).rstrip()


def shown(sampled: Sampled) -> str:
    """`25.10 [24.20, 26.03]` in percent; a star where the interval of a difference leaves out 0."""
    low, high = sampled.interval()
    if np.isnan(sampled.value):
        return "undefined"
    sign = "+" if sampled.is_difference else ""
    numbers = [format(100 * float(number), f"{sign}.2f") for number in (sampled.value, low, high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" + "*" * (sampled.is_difference and bool(low > 0 or high < 0))


def by_class(scored: Sequence[Scored], letters: dict[str, str], names: Sequence[str]) -> Iterator[str]:
    """Lines for some classes, by the first rule: the largest differences, or of one file the best and the worst."""
    compared = [(s, base) for s, base in pairs(scored) if s.rule == scored[0].rule]
    if not compared:
        yield from _best_and_worst(scored[0], names)
    for s, base in compared:
        difference = s.AP.minus(base.AP)
        yield f"\nLargest differences by rule {s.rule}, {letters[s.path]} - {letters[base.path]}:"
        for c in np.argsort(-np.nan_to_num(np.abs(difference.value)), kind="stable")[:SHOWN]:
            scores = f"{100 * base.AP.value[c]:6.2f} -> {100 * s.AP.value[c]:6.2f}"
            yield f"  {scores}  {shown(difference.of_class(c)):26} {_class(s, c, names)}"
        low, high = difference.interval()
        yield (
            f"  95% interval above 0 for {int((low > 0).sum())} classes, below 0 for {int((high < 0).sum())}; "
            f"of {len(names)} classes about {round(0.05 * len(names))} would be outside by chance"
        )


def _best_and_worst(s: Scored, names: Sequence[str]) -> Iterator[str]:
    ranked = [c for c in np.argsort(-s.AP.value, kind="stable") if s.positives[c]]
    chosen = ranked if len(ranked) <= SHOWN else [*ranked[: SHOWN // 2], None, *ranked[-SHOWN // 2 :]]
    yield f"\nAP by class, rule {s.rule}:"
    for c in chosen:
        if c is None:
            yield "  ..."
        else:
            yield f"  {shown(s.AP.of_class(c)):26} {_class(s, c, names)}"


def _class(s: Scored, c: int, names: Sequence[str]) -> str:
    return f"{names[c]} ({int(s.positives[c])} positives)"


# --- files ------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, scored: Sequence[Scored], names: Sequence[str]) -> None:
    """One line for each rule, file and class; differences are to the first file. Undefined values are empty."""
    base = {s.path + s.rule: b for s, b in pairs(scored)}
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for s in scored:
            columns = [*_columns(s.AP)]
            if s.path + s.rule in base:
                columns += _columns(s.AP.minus(base[s.path + s.rule].AP))
            for c, name in enumerate(names):
                numbers = ["" if np.isnan(column[c]) else repr(float(column[c])) for column in columns]
                line = [s.rule, s.path, c, name, int(s.positives[c]), *numbers]
                table.writerow(line + [""] * (len(COLUMNS) - len(line)))


def _columns(sampled: Sampled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sampled.value, *sampled.interval()


def write_json(path: Path, scored: Sequence[Scored], names: Sequence[str], about: dict[str, Any]) -> None:
    """Everything but the resamples; undefined values are null."""
    files: dict[str, dict] = {s.path: {} for s in scored}
    for s in scored:
        files[s.path][s.rule] = {
            "videos": s.videos,
            "positives": s.positives.tolist(),
            "classes_without_positives": np.flatnonzero(s.positives == 0).tolist(),
            **_estimates(s.means, s.AP),
        }
    differences: dict[str, dict] = {s.path: {} for s, _ in pairs(scored)}
    for s, base in pairs(scored):
        shared = {name: mean.minus(base.means[name]) for name, mean in s.means.items() if name in base.means}
        differences[s.path][s.rule] = _estimates(shared, s.AP.minus(base.AP))
    contents = about | {
        "classes": list(names),
        "predictions": [{"path": path, "rules": rules} for path, rules in files.items()],
        "differences": [{"path": path, "minus": scored[0].path, "rules": rules} for path, rules in differences.items()],
    }
    write_text(path, json.dumps(contents, indent=1, allow_nan=False) + "\n")


def _estimates(means: dict[str, Sampled], ap: Sampled) -> dict[str, Any]:
    """{name: {"value", "low", "high"}} of the means, the same as lists over the classes for "AP"."""
    estimates = {}
    for name, sampled in {**means, "AP": ap}.items():
        numbers = dict(zip(("value", "low", "high"), _columns(sampled), strict=True))
        if sampled.is_mean:  # for who compares with other tools
            numbers |= zip(("percentile_low", "percentile_high"), percentile_interval(sampled.resamples), strict=True)
        estimates[name] = {key: _nullable(value) for key, value in numbers.items()}
    return estimates


def _nullable(values: np.ndarray) -> float | list | None:
    """Numbers as JSON takes them: None for NaN."""
    return np.where(np.isnan(values), None, np.asarray(values).astype(object)).tolist()
