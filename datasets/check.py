"""Before a training: whether a dataset is as its configuration says, in one screen.

    python -m datasets.check --config configs/charades.yaml --data.frames DIR
    python -m datasets.check --config configs/charades.yaml --deep    # decodes every frame

Takes the options of the training scripts. Warnings are for a person to judge; a problem is what training would stop at,
and the exit status is then 1. Nothing is written but the index of frames. A script but for its place: it assembles.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError, one_line
from common.progress import progress
from configs.cli import parse
from configs.schema import Config
from datasets import KINDS, survey
from datasets.annotations import Annotations
from datasets.assembly import class_names, frame_listings, open_features, train_loader
from datasets.clips import MISSING_LIMIT, VideoFrames, clip_frames, video_length
from datasets.features import DTYPES, GRID, MANIFEST
from datasets.findings import Findings, counted, some
from datasets.frames import Listing, get_decoder
from eval.charades_localize import read_ground_truth
from models.x3d import VARIANTS

SAMPLED = 100  # videos of which one frame is decoded, without --deep
RATE_TOLERANCE = 0.02  # how far the frame rate may be from the dataset's own
MANY = 0.1  # share of videos longer than the fine window that is worth a warning


@dataclass(frozen=True)
class Dataset:
    """Annotations and frames together."""

    annotations: Annotations
    listings: dict[str, Listing]
    videos: list[VideoFrames]  # those with frames
    training: list[VideoFrames]  # of these, long enough to train on
    tested: list[VideoFrames]
    rate: float  # frames a second


# --- the dataset ------------------------------------------------------------------------------------------------------


def check_annotations(config: Config, report: Findings) -> Annotations:
    """What is annotated, and what is odd about it."""
    data = config.data
    annotations = KINDS[data.kind].load(data.annotations, data.num_classes)
    report.say("annotations", f"{annotations.summary()}; {counted(data.num_classes, 'class')}")
    odd = [f"{count} {kind}" for kind, count in survey.oddities(annotations).items()]
    if odd:
        report.warn(f"actions that are odd, kept as they are: {', '.join(odd)}")
    idle = [video.id for video in annotations.videos if not video.actions]
    if idle:
        report.say("", f"{counted(len(idle), 'video')} without any action: {some(idle)}")
    if data.ground_truth:
        check_ground_truth(config, annotations, report)
    return annotations


def check_ground_truth(config: Config, annotations: Annotations, report: Findings) -> None:
    """Whether the official CSV can be read and is of the same test videos."""
    path = config.data.ground_truth
    try:
        truth = read_ground_truth(path, config.data.num_classes)
    except (InputError, OSError) as error:
        report.problem(f"data.ground_truth: {getattr(error, 'strerror', None) or error} ({path})")
        return
    tested = {video.id for video in annotations.subset("testing")}
    differing = sorted(tested ^ truth.keys())
    if differing:
        report.warn(f"{path} and the test videos of the annotations differ in {len(differing)}: {some(differing)}")


def check_frames(config: Config, annotations: Annotations, report: Findings) -> Dataset:
    """Which videos have frames, without holes, and as many as they last."""
    data = config.data
    listings = frame_listings(config, list(annotations.videos))
    videos = [VideoFrames(video, listings[video.id].last) for video in annotations.videos if listings[video.id].last]
    rate = survey.frame_rate(videos) if videos else 1.0
    total = sum(n for _, n in videos)
    at = f", {rate:.4g} a second (median)" if videos else ""
    report.say("frames", f"{data.frames}: {len(videos)} of {len(listings)} videos, {total:,} frames{at}")
    check_missing(config, listings, report)
    check_holes(config, listings, report)
    check_rate(config, videos, rate, report)
    training = [entry for entry in videos if entry.video.subset == "training" and entry.n >= data.min_frames]
    tested = [entry for entry in videos if entry.video.subset == "testing"]
    short = sum(entry.video.subset == "training" for entry in videos) - len(training)
    if short:
        report.say("", f"{counted(short, 'training video')} below data.min_frames = {data.min_frames}, left out")
    for entries, what in ((training, "training"), (tested, "test")):
        if not entries:
            report.problem(f"no usable {what} videos; correct --data.annotations, --data.frames or --data.min_frames")
    return Dataset(annotations, listings, videos, training, tested, rate)


def check_missing(config: Config, listings: dict[str, Listing], report: Findings) -> None:
    """Videos without frames, and folders that are of no video."""
    data = config.data
    missing = [video for video, listing in listings.items() if not listing.last and not listing.stray]
    if missing:
        tolerable = data.allow_missing or len(missing) <= MISSING_LIMIT * len(listings)
        tell, remedy = (report.warn, "") if tolerable else (report.problem, "; or go on by --data.allow_missing true")
        tell(f"{counted(len(missing), 'video')} without frames: {some(missing)}{remedy}")
    with os.scandir(data.frames) as entries:
        others = sorted(entry.name for entry in entries if entry.name not in listings and entry.is_dir())
    if others:
        report.say("", f"{counted(len(others), 'folder')} of no annotated video: {some(others)}")


def check_holes(config: Config, listings: dict[str, Listing], report: Findings) -> None:
    """Missing frames among others."""
    holes = {video: listing for video, listing in listings.items() if listing.holes}
    if not holes:
        return
    tolerated = config.data.on_bad_sample == "skip" and len(holes) <= max(1, int(MISSING_LIMIT * len(listings)))
    shown = some(f"{video} ({describe_holes(listing)})" for video, listing in holes.items())
    tell, remedy = (report.warn, ", skipped") if tolerated else (report.problem, "; extract these videos' frames again")
    tell(f"{counted(len(holes), 'video')} with missing frames: {shown}{remedy}")


def describe_holes(listing: Listing) -> str:
    ranges = [str(first) if first == last else f"{first}-{last}" for first, last in listing.holes]
    stray = f"; {listing.stray} is no frame's name" if listing.stray else ""
    return ", ".join(ranges[:3]) + (", ..." if len(ranges) > 3 else "") + stray


def check_rate(config: Config, videos: list[VideoFrames], rate: float, report: Findings) -> None:
    """Whether the numbers of frames fit the durations."""
    usual = KINDS[config.data.kind].FRAMES_PER_SECOND
    if usual and videos and abs(rate / usual - 1) > RATE_TOLERANCE:
        report.warn(f"{rate:.4g} frames a second, where {config.data.kind} has {usual:g}")
    elif usual:
        rate = usual
    off = survey.off_duration(videos, rate)
    if off:
        shown = some(f"{video.id} ({n / rate:.1f} s of frames for {video.duration:.1f} s)" for video, n in off)
        report.warn(f"{counted(len(off), 'video')} with frames for another duration, at {rate:.4g} a second: {shown}")


def check_pixels(config: Config, dataset: Dataset, report: Findings, *, deep: bool) -> None:
    """Decodes every frame, or of some videos the last one, where an interrupted extraction shows."""
    present = {video.id: dataset.listings[video.id] for video, _ in dataset.videos}
    if deep:
        numbers = {video: survey.present_frames(listing) for video, listing in present.items()}
    else:
        chosen = list(present)[:: max(1, -(-len(present) // SAMPLED))]
        numbers = {video: [present[video].last] for video in chosen}
    decode = get_decoder(config.data.image_backend)
    decoded = survey.unreadable(config.data.frames, numbers, decode, threads=os.cpu_count() or 1)
    if deep:
        decoded = progress(decoded, len(numbers), "Decoding all frames")
    faults = dict(sorted((video, fault) for video, fault in decoded if fault))
    what = "every frame of all videos" if deep else f"one frame of {counted(len(numbers), 'video')} (--deep: all)"
    report.say("", f"decoded {what}: {len(faults) or 'none'} unreadable")
    if faults:
        tolerated = config.data.on_bad_sample == "skip" and len(faults) <= max(1, int(MISSING_LIMIT * len(present)))
        (report.warn if tolerated else report.problem)(
            f"{counted(len(faults), 'video')} with unreadable frames: {some(faults)}; {next(iter(faults.values()))}"
        )


def check_classes(config: Config, dataset: Dataset, report: Findings) -> None:
    """Classes that nothing can be learned of, or that no test video shows."""
    names = class_names(config)
    for entries, what, remark in (
        (dataset.training, "training", ""),
        (dataset.tested, "test", ", so that AP is undefined for them and mAP with it"),
    ):
        absent = np.flatnonzero(survey.videos_by_class(entries, len(names)) == 0)
        if entries and len(absent):
            shown = some(f"{label} {names[label]}" for label in absent)
            report.warn(f"{counted(len(absent), 'class')} without a {what} example: {shown}{remark}")


def check_clips(config: Config, dataset: Dataset, report: Findings) -> None:
    """The geometry of clips, in plain words."""
    data, rate = config.data, dataset.rate

    def spans(frames: int, video_frames: int) -> str:
        return f"{frames} frames x stride {data.stride} = {video_frames} video frames = {video_frames / rate:.1f} s"

    T = len(clip_frames(1, data.clip_span, stride=data.stride, clip_span=data.clip_span))
    window = data.fine_frames * data.stride
    where = "a video's first" if data.fine_window == "first" else "around the clip"
    report.say("clips", f"a training clip: {spans(T, data.clip_span)}")
    report.say("", f"fine window: {spans(data.fine_frames, window)}, {where}")
    if not dataset.training:
        return
    lengths = np.array([n for _, n in dataset.training])
    longer = int((lengths > window).sum())
    report.say(
        "",
        f"training videos: median {np.median(lengths) / rate:.1f} s, longest {lengths.max() / rate:.1f} s; "
        f"{int((lengths < data.clip_span).sum())} shorter than a clip, {longer} longer than the fine window",
    )
    if data.fine_window == "first" and longer > MANY * len(lengths):
        report.warn(f"clips late in {longer} videos see none of their own features; use --data.fine_window centred")


# --- what training makes of it ----------------------------------------------------------------------------------------


def check_features(config: Config, dataset: Dataset, report: Findings) -> None:
    """How large the store of features is or will be, and what it lacks."""
    if config.model.fusion == "none" or config.coarse.fine_source == "network":
        report.say("features", "no store is needed")
        return
    lengths = {video.id: video_length(n, config.data.stride) for video, n in dataset.videos}
    channels = sum(VARIANTS[config.model.variant].feature_channels.values())
    width = DTYPES[config.features.dtype].itemsize
    frame_bytes = channels * GRID * GRID * width
    frames = sum(lengths.values())
    report.say(
        "features",
        f"{config.features.dtype}, {frame_bytes:,} bytes ({channels} channels x {GRID * GRID} positions x {width}) "
        f"x {frames:,} clip frames = {frames * frame_bytes:,} bytes, {frames * frame_bytes / 1e9:.2f} GB",
    )
    lacking = check_store(config, lengths, report)
    needed, free = sum(lengths[video] for video in lacking) * frame_bytes, free_bytes(config.features_dir)
    if needed > free:
        report.warn(f"{config.features_dir}: {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB still to be written")


def check_store(config: Config, lengths: dict[str, int], report: Findings) -> list[str]:
    """The videos whose features stage 2 has still to write."""
    folder = config.features_dir
    if not (folder / MANIFEST).is_file():
        report.say("", f"{folder}: not extracted yet; stage 2 does that")
        return list(lengths)
    try:
        store = open_features(config)
    except InputError as error:
        report.problem(str(error))
        return []
    lacking = store.missing(lengths)
    report.say("", f"{folder}: {len(lengths) - len(lacking)} of {counted(len(lengths), 'video')} extracted")
    if lacking:
        report.warn(f"{counted(len(lacking), 'video')} without features: {some(lacking)}; run extract_fineFEAT.py")
    other = [video for video in lengths.keys() - set(lacking) if store.frames(video) != lengths[video]]
    if other:
        report.problem(
            f"{counted(len(other), 'video')} with features of another number of frames: {some(sorted(other))}; "
            "run extract_fineFEAT.py on the present frames"
        )
    return [*lacking, *other]


def check_run(config: Config, report: Findings) -> None:
    """What the trainings start from, and whether there is a place for their results."""
    starts, refused = {}, []
    for number, name in ((1, "fine"), (3, "coarse")):
        init, checkpoints = Path(getattr(config, name).init), config.run_dir / name / "checkpoints"
        try:
            if config.run.resume == "auto" and (checkpoints / "last.pt").is_file():
                starts[number] = f"continues from {checkpoints / 'last.pt'}"
            elif number == 3 and init.parent == config.run_dir / "fine" / "checkpoints" and not init.is_file():
                starts[number] = f"{init}, which stage 1 will write"
            else:
                starts[number] = config.starting_checkpoint(name) or "random weights"
        except InputError as error:
            starts[number] = init
            refused.append(str(error))
    report.say("weights", "; ".join(f"stage {number}: {start}" for number, start in starts.items()))
    for line in refused:
        report.problem(line)
    folder = existing(config.run_dir)
    if not os.access(folder, os.W_OK):
        report.problem(f"{folder}: cannot be written to; choose another --run.dir")


def refusals(config: Config, annotations: Annotations) -> Iterator[str]:
    """What the trainings' own start says against the configuration, such as batches that cannot be divided."""
    for stage in (config.fine, config.coarse):
        try:
            with redirect_stdout(StringIO()):
                train_loader(config, stage, annotations, torch.device("cpu"))
        except InputError as error:
            yield str(error)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(existing(folder)).free


# --- all of it --------------------------------------------------------------------------------------------------------


def examine(config: Config, *, deep: bool) -> Findings:
    """The whole report."""
    report = Findings()
    annotations = check_annotations(config, report)
    dataset = check_frames(config, annotations, report)
    check_pixels(config, dataset, report, deep=deep)
    check_classes(config, dataset, report)
    check_clips(config, dataset, report)
    check_features(config, dataset, report)
    check_run(config, report)
    if not report.problems:
        for line in dict.fromkeys(refusals(config, annotations)):
            report.problem(line)
    return report


def main(argv: list[str] | None = None) -> int:
    """Print the report; 1 where training could not run, or with one line on stderr where there is nothing to report."""
    command = parse(
        argv,
        prog="datasets.check",
        description="Report what training would find of a dataset.",
        flags={"deep": "decode every frame of every video"},
    )
    try:
        report = examine(command.config, deep="deep" in command.flags)
    except (InputError, OSError) as error:
        print(f"datasets.check: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("datasets.check: interrupted", file=sys.stderr)
        return 130
    print("\n".join(report.lines))
    print(report.verdict())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
