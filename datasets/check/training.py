"""What training would make of a dataset: its features, its start, its batches."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from common.errors import InputError
from common.files import writable
from common.text import counted, first_few
from configs.schema import Config
from datasets.annotations import Annotations
from datasets.assembly import open_features, train_loader
from datasets.check.report import Report
from datasets.clips import VideoFrames, video_length
from datasets.features import DTYPES, GRID, MANIFEST
from models.x3d import VARIANTS


def check_features(config: Config, videos: Sequence[VideoFrames], report: Report) -> None:
    """How large the store of features is or will be, and what it lacks."""
    if config.model.fusion == "none" or config.coarse.fine_source == "network":
        report.add("features", "no store is needed")
        return
    lengths = {video.id: video_length(n, config.data.stride) for video, n in videos}
    channels = sum(VARIANTS[config.model.variant].feature_channels.values())
    width = DTYPES[config.features.dtype].itemsize
    frame_bytes = channels * GRID * GRID * width
    frames = sum(lengths.values())
    report.add(
        "features",
        f"{config.features.dtype}, {frame_bytes:,} bytes ({channels} channels x {GRID * GRID} positions x {width}) "
        f"x {frames:,} clip frames = {frames * frame_bytes:,} bytes, {frames * frame_bytes / 1e9:.2f} GB",
    )
    unwritten = sum(lengths[video] for video in check_store(config, lengths, report)) * frame_bytes
    free = shutil.disk_usage(nearest_folder(config.features_dir)).free
    if unwritten > free:
        report.warn(f"{config.features_dir}: {free / 1e9:.2f} GB free, {unwritten / 1e9:.2f} GB still to be written")


def check_store(config: Config, lengths: Mapping[str, int], report: Report) -> list[str]:
    """The videos whose features stage 2 has still to write."""
    folder = config.features_dir
    try:
        store = open_features(config) if (folder / MANIFEST).is_file() else None
    except InputError as error:
        report.problem(str(error))
        return []
    if store is None:
        report.add("", f"{folder}: not extracted yet; stage 2 does that")
        return list(lengths)
    lacking = store.missing(lengths)
    report.add("", f"{folder}: {len(lengths) - len(lacking)} of {counted(len(lengths), 'video')} extracted")
    if lacking:
        report.warn(f"{counted(len(lacking), 'video')} without features: {first_few(lacking)}; run extract_fineFEAT.py")
    other = sorted(video for video in lengths.keys() - set(lacking) if store.frames(video) != lengths[video])
    if other:
        report.problem(
            f"{counted(len(other), 'video')} with features of another number of frames: {first_few(other)}; "
            "run extract_fineFEAT.py on the present frames"
        )
    return [*lacking, *other]


def check_run(config: Config, report: Report) -> None:
    """What the trainings start from, and whether there is a place for their results."""
    for number, name in ((1, "fine"), (3, "coarse")):
        try:
            report.add("weights", f"stage {number}: {starting_point(config, name)}")
        except InputError as error:
            report.problem(str(error))
    try:
        writable(nearest_folder(config.run_dir), "--run.dir")
    except InputError as error:
        report.problem(str(error))


def starting_point(config: Config, name: str) -> str:
    """What a stage's training starts from, in words."""
    init, last = Path(getattr(config, name).init), config.run_dir / name / "checkpoints" / "last.pt"
    if config.run.resume == "auto" and last.is_file():
        return f"continues from {last}"
    if name == "coarse" and init.parent == config.run_dir / "fine" / "checkpoints" and not init.is_file():
        return f"{init}, which stage 1 will write"
    return str(config.starting_checkpoint(name) or "random weights")


def check_batches(config: Config, annotations: Annotations, report: Report) -> None:
    """What the trainings' own start says against the configuration, such as batches that cannot be divided."""
    problems: dict[str, None] = {}  # each once, where both stages have it
    for stage in (config.fine, config.coarse):
        try:
            with redirect_stdout(StringIO()):
                train_loader(config, stage, annotations, torch.device("cpu"))
        except InputError as error:
            problems[str(error)] = None
    for problem in problems:
        report.problem(problem)


def nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
