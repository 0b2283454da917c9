"""Create one HTML file from the records of a run: the values as JSON, and a page that draws them.

The page is assembled from plain HTML, CSS and JavaScript in `files/`. It loads nothing, and its content security policy
allows only its own script and style. Names and ids are passed only as JSON and inserted only as text, so markup in them
has no effect.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from common.files import JsonObject
from configs.schema import FROM_SCRATCH, Config
from eval.charades_localize import Truth
from tools.report.data import RunRecord, StageRecord
from tools.report.videos import rounded
from tools.runs import official_labels

FILES = Path(__file__).with_name("files")
SCRIPTS = ("elements.js", "curves.js", "results.js", "classes.js", "videos.js", "page.js")
POOLS = {"grid": "Grid Pool", "avg": "average pooling", "max": "maximum pooling", "stride": "every fourth frame",
         "none": "no temporal pooling"}  # fmt: skip
FUSIONS = {"multistage": "multi-stage fusion", "per_stage": "per-stage fusion",
           "lateral": "lateral concatenation", "none": "no fusion"}  # fmt: skip
RULES = ("official", "released", "frames")


def render(values: JsonObject) -> str:
    """Render the page with `values`, which must be JSON without NaN."""
    script = '"use strict";\n' + "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (FILES / "page.css").read_text(encoding="utf-8")
    page = (FILES / "page.html").read_text(encoding="utf-8")
    parts = {
        "script-hash": policy_hash(script),
        "style-hash": policy_hash(style),
        "style": style,
        "script": script,
        "data": inline_json(values),
    }
    return re.sub(r"{{(.+?)}}", lambda place: parts[place[1]], page)


def inline_json(values: JsonObject) -> str:
    """JSON that is safe in a script element: it cannot end the element or open a comment."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy_hash(text: str) -> str:
    """The hash by which a content security policy identifies an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- values -----------------------------------------------------------------------------------------------------------


def page_values(
    run: RunRecord,
    *,
    names: Sequence[str],
    truth: Mapping[str, Truth],
    videos: Sequence[JsonObject],
    notes: Sequence[str],
) -> JsonObject:
    """The values shown by the page, in the form that its scripts read."""
    return {
        "name": run.config.run.name if run.config else run.folder.resolve().name,
        "folder": str(run.folder),
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "summary": summary(run.config, truth) if run.config else [],
        "stages": [stage_values(stage) for stage in run.stages],
        "classes": class_rows(run, names, truth),
        "names": list(names),
        "videos": list(videos),
        "notes": list(notes),
    }


def summary(config: Config, truth: Mapping[str, Truth]) -> list[tuple[str, str]]:
    """The main settings of the configuration: (title, value)."""
    data, model = config.data, config.model
    tested = f", {len(truth):,} test videos" if truth else ""
    return [
        ("Network", f"X3D {model.variant}, {POOLS[model.pool]}, {FUSIONS[model.fusion]}"),
        ("Task", f"{data.num_classes} classes{tested}, stride {data.stride}"),
        ("Frames", data.frames),
        ("Annotations", f"{data.annotations} ({data.kind})"),
        ("Seed, precision", f"{config.run.seed}, {config.run.precision}"),
    ]


def stage_values(stage: StageRecord) -> JsonObject:
    return {
        "key": stage.key,
        "title": stage.title,
        "status": stage.status,
        "started": f"{stage.started:%Y-%m-%d %H:%M}" if stage.started else None,
        "updated": f"{stage.updated:%Y-%m-%d %H:%M}" if stage.updated else None,
        "best": stage.best,
        "training": training_summary(stage),
        "train": [without_classes(line) for line in stage.lines if line["event"] == "train"],
        "validation": [without_classes(line) for line in stage.lines if line["event"] == "validation"],
        "metrics": without_classes(stage.metrics) if stage.metrics else None,
        "config": stage.config_text,
        "notes": stage.notes,
    }


def training_summary(stage: StageRecord) -> str:
    if stage.config is None:
        return ""
    options = getattr(stage.config, stage.key)
    rounds = ", ".join(map(str, options.milestones))
    falls = f"multiplied by {options.lr_decay:g} after round{'s' * (len(options.milestones) > 1)} {rounds}"
    start = "random weights" if options.init == FROM_SCRATCH else options.init
    return (
        f"batch {options.batch_size}, learning rate {options.lr:g}{', ' + falls if rounds else ''}; "
        f"rounds of {options.round_epochs} epochs; from {start}"
    )


def without_classes(metrics: JsonObject) -> JsonObject:
    return {name: value for name, value in metrics.items() if not name.startswith("AP_")}


def class_rows(run: RunRecord, names: Sequence[str], truth: Mapping[str, Truth]) -> list[JsonObject]:
    """A table row per class: positives and their share of the official frames, AP by rule and stage."""
    metrics = {stage.key: stage.metrics for stage in run.stages if stage.metrics}
    rules = [rule for rule in RULES if any(values.get(f"AP_{rule}") for values in metrics.values())]
    if not rules:
        return []
    known = official_labels(truth, len(names)) if truth else None
    return [
        {
            "name": name,
            "positives": None if known is None else int(known[:, label].sum()),
            "chance": None if known is None else rounded(known[:, label].mean(), 5),
            "AP": {
                rule: {
                    key: rounded(values[f"AP_{rule}"][label], 5) if f"AP_{rule}" in values else None
                    for key, values in metrics.items()
                }
                for rule in rules
            },
        }
        for label, name in enumerate(names)
    ]
