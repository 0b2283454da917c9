"""Check what training needs besides the dataset: features, initial weights and batch sizes."""

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
    """Report the size of the feature store, and missing features."""
    if config.model.fusion == "none" or config.coarse.fine_source == "network":
        report.add("features", "no feature store needed")
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
        report.warn(f"{config.features_dir}: {free / 1e9:.2f} GB free, but {unwritten / 1e9:.2f} GB still needed")


def check_store(config: Config, lengths: Mapping[str, int], report: Report) -> list[str]:
    """Return the videos whose features stage 2 has yet to write."""
    folder = config.features_dir
    try:
        store = open_features(config) if (folder / MANIFEST).is_file() else None
    except InputError as error:
        report.problem(str(error))
        return []
    if store is None:
        report.add("", f"{folder}: not extracted yet; run stage 2")
        return list(lengths)
    lacking = store.missing(lengths)
    report.add("", f"{folder}: {len(lengths) - len(lacking)} of {counted(len(lengths), 'video')} extracted")
    if lacking:
        report.warn(f"{counted(len(lacking), 'video')} without features: {first_few(lacking)}; run extract_fineFEAT.py")
    other = sorted(video for video in lengths.keys() - set(lacking) if store.frames(video) != lengths[video])
    if other:
        report.problem(
            f"{counted(len(other), 'video')} whose features do not match their number of frames: {first_few(other)}; "
            "run extract_fineFEAT.py again"
        )
    return [*lacking, *other]


def check_run(config: Config, report: Report) -> None:
    """Report the initial weights of the stages, and whether the run folder is writable."""
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
    """Describe the initial weights of a stage."""
    init, last = Path(getattr(config, name).init), config.run_dir / name / "checkpoints" / "last.pt"
    if config.run.resume == "auto" and last.is_file():
        return f"resumes from {last}"
    if name == "coarse" and init.parent == config.run_dir / "fine" / "checkpoints" and not init.is_file():
        return f"{init} (to be written by stage 1)"
    return str(config.starting_checkpoint(name) or "random weights")


def check_batches(config: Config, annotations: Annotations, report: Report) -> None:
    """Report errors from setting up the training loaders, such as indivisible batch sizes."""
    problems: dict[str, None] = {}  # both stages may have the same error
    for stage in (config.fine, config.coarse):
        try:
            with redirect_stdout(StringIO()):
                train_loader(config, stage, annotations, torch.device("cpu"))
        except InputError as error:
            problems[str(error)] = None
    for problem in problems:
        report.problem(problem)


def nearest_folder(folder: Path) -> Path:
    """Return the folder or its nearest existing parent."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
