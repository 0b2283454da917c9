"""What has changed between the training that a checkpoint holds and the one that continues it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from configs.schema import FIXED, NO_EFFECT, OPTIONS, STAGE_3_ONLY, diff


def changed_settings(
    path: Path, saved: Mapping[str, Mapping[str, Any]], present: Mapping[str, Mapping[str, Any]], stage: str
) -> list[str]:
    """One line for each option in which the training that `path` holds differs from the one that continues it.

    Args:
        saved, present: {section: {option: value}}; an option that is new since then is not compared.
        stage: "fine" or "coarse": the other one's section does not count, nor where results and features are.

    Raises:
        InputError: where what has changed is the network or its task.
    """
    lines = []
    for option, (before, now) in diff(saved, present).items():
        section, name = option.split(".")
        known = name in saved.get(section, {}) and name in present.get(section, {})
        if not known or section not in ("data", "model", "run", stage):
            continue
        marks = getattr(OPTIONS[option], "__metadata__", ())
        if NO_EFFECT in marks or (stage == "fine" and STAGE_3_ONLY in marks):
            continue
        if FIXED in marks:
            raise InputError(
                f"{path}: this run began with {option} {before}, now it is {now}; continue with --{option} {before}, "
                "or start again with another --run.dir or --run.resume never"
            )
        lines.append(f"{option} was {before}, from here on it is {now}")
    return lines
