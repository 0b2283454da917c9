"""What there is to know of a dataset: of its annotations, its folders of frames, their pixels, and clips of them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, one_line
from common.progress import progress
from common.text import counted, first_few
from configs.schema import Config, Data
from datasets.annotations import Annotations
from datasets.assembly import class_names
from datasets.check.report import Report
from datasets.clips import MISSING_LIMIT, VideoFrames, clip_frames, frame_labels
from datasets.frames import Decoder, Listing, get_decoder, read_frames
from datasets.index import list_with_index
from datasets.kinds import KINDS
from eval.charades_localize import read_ground_truth

SAMPLED = 100  # videos of which one frame is decoded, without --deep
RATE_TOLERANCE = 0.02  # how far the frame rate may be from the dataset's own
OFF_BY_SECONDS = 1.0  # how far frames may be from the duration, or
OFF_BY_SHARE = 0.01  # by this share of it, where that is more
MANY = 0.1  # share of videos longer than the fine window that is worth a warning


class Frames(NamedTuple):
    """What the folders hold; videos are those with frames."""

    listings: dict[str, Listing]
    videos: list[VideoFrames]
    training: list[VideoFrames]  # of these, long enough to train on
    tested: list[VideoFrames]
    rate: float  # frames a second


# --- annotations ------------------------------------------------------------------------------------------------------


def check_annotations(config: Config, report: Report) -> Annotations:
    """What is annotated, and what is odd about it."""
    data = config.data
    annotations = KINDS[data.kind].load(data.annotations, data.num_classes)
    report.add("annotations", f"{annotations.summary()}; {counted(data.num_classes, 'class')}")
    if odd := annotations.oddities():
        report.warn(f"actions that are odd, kept as they are: {', '.join(odd)}")
    if idle := [video.id for video in annotations.videos if not video.actions]:
        report.add("", f"{counted(len(idle), 'video')} without any action: {first_few(idle)}")
    if data.ground_truth:
        try:
            truth = read_ground_truth(data.ground_truth, data.num_classes)
        except (InputError, OSError) as error:
            report.problem(f"data.ground_truth: {one_line(error)}")
        else:
            differing = sorted({video.id for video in annotations.subset("testing")} ^ truth.keys())
            if differing:
                both = f"{data.ground_truth} and the test videos of the annotations"
                report.warn(f"{both} differ in {len(differing)}: {first_few(differing)}")
    return annotations


# --- folders of frames ------------------------------------------------------------------------------------------------


def check_frames(config: Config, annotations: Annotations, report: Report) -> Frames:
    """Which videos have frames, without holes, and as many as they last."""
    data = config.data
    listings = list_with_index(data.frames, [video.id for video in annotations.videos], spare=config.run_dir)
    videos = [VideoFrames(video, listings[video.id].last) for video in annotations.videos if listings[video.id].last]
    rate = float(np.median([n / video.duration for video, n in videos])) if videos else 1.0
    at = f", {rate:.4g} a second (median)" if videos else ""
    total = sum(n for _, n in videos)
    report.add("frames", f"{data.frames}: {len(videos)} of {len(listings)} videos, {total:,} frames{at}")
    check_missing(data, listings, report)
    check_holes(data, listings, report)
    check_rate(data, videos, rate, report)
    listed = [entry for entry in videos if entry.video.subset == "training"]
    training = [entry for entry in listed if entry.n >= data.min_frames]
    tested = [entry for entry in videos if entry.video.subset == "testing"]
    if short := len(listed) - len(training):
        report.add("", f"{counted(short, 'training video')} below data.min_frames = {data.min_frames}, left out")
    for entries, what in ((training, "training"), (tested, "test")):
        if not entries:
            report.problem(f"no usable {what} videos; correct --data.annotations, --data.frames or --data.min_frames")
    return Frames(listings, videos, training, tested, rate)


def check_missing(data: Data, listings: Mapping[str, Listing], report: Report) -> None:
    """Videos without frames, and folders that are of no video."""
    missing = [video for video, listing in listings.items() if not listing.last and not listing.stray]
    if missing:
        text = f"{counted(len(missing), 'video')} without frames: {first_few(missing)}"
        if data.allow_missing or len(missing) <= MISSING_LIMIT * len(listings):
            report.warn(text)
        else:
            report.problem(f"{text}; or go on by --data.allow_missing true")
    with os.scandir(data.frames) as entries:
        others = sorted(entry.name for entry in entries if entry.name not in listings and entry.is_dir())
    if others:
        report.add("", f"{counted(len(others), 'folder')} of no annotated video: {first_few(others)}")


def check_holes(data: Data, listings: Mapping[str, Listing], report: Report) -> None:
    """Missing frames among others."""
    holes = []
    for video, listing in listings.items():
        ranges = [str(first) if first == last else f"{first}-{last}" for first, last in listing.holes]
        stray = f"; {listing.stray} is no frame's name" if listing.stray else ""
        if ranges:
            holes.append(f"{video} ({', '.join(ranges[:3])}{', ...' if len(ranges) > 3 else ''}{stray})")
    if not holes:
        return
    text = f"{counted(len(holes), 'video')} with missing frames: {first_few(holes)}"
    if may_be_skipped(data, len(holes), len(listings)):
        report.warn(f"{text}, skipped")
    else:
        report.problem(f"{text}; extract these videos' frames again")


def may_be_skipped(data: Data, count: int, videos: int) -> bool:
    """Whether training goes on without so many of the videos."""
    return data.on_bad_sample == "skip" and count <= max(1, int(MISSING_LIMIT * videos))


def check_rate(data: Data, videos: Sequence[VideoFrames], rate: float, report: Report) -> None:
    """Whether the numbers of frames fit the durations."""
    usual = KINDS[data.kind].frames_per_second
    if usual and videos and abs(rate / usual - 1) > RATE_TOLERANCE:
        report.warn(f"{rate:.4g} frames a second, where {data.kind} has {usual:g}")
    elif usual:
        rate = usual
    off = [
        f"{video.id} ({n / rate:.1f} s of frames for {video.duration:.1f} s)"
        for video, n in videos
        if abs(n / rate - video.duration) > max(OFF_BY_SECONDS, OFF_BY_SHARE * video.duration)
    ]
    if off:
        others = f"{counted(len(off), 'video')} with frames for another duration, at {rate:.4g} a second"
        report.warn(f"{others}: {first_few(off)}")


# --- pixels -----------------------------------------------------------------------------------------------------------


def check_pixels(config: Config, frames: Frames, report: Report, *, deep: bool) -> None:
    """Decodes every frame, or of some videos the last one, where an interrupted extraction shows."""
    data, present = config.data, [video.id for video, _ in frames.videos]
    chosen = present if deep else present[:: max(1, -(-len(present) // SAMPLED))]
    listings = {video: frames.listings[video] for video in chosen}
    numbers = {video: present_frames(listing) if deep else [listing.last] for video, listing in listings.items()}
    faults = unreadable(data.frames, numbers, get_decoder(data.image_backend))
    what = "every frame of all videos" if deep else f"one frame of {counted(len(chosen), 'video')} (--deep: all)"
    report.add("", f"decoded {what}: {len(faults) or 'none'} unreadable")
    if faults:
        found = f"{counted(len(faults), 'video')} with unreadable frames: {first_few(faults)}"
        tell = report.warn if may_be_skipped(data, len(faults), len(present)) else report.problem
        tell(f"{found}; {next(iter(faults.values()))}")


def present_frames(listing: Listing) -> Iterable[int]:
    """Numbers of the frames that a folder has."""
    missing = {number for first, last in listing.holes for number in range(first, last + 1)}
    return (number for number in range(1, listing.last + 1) if number not in missing)


def unreadable(root: str | Path, numbers: Mapping[str, Iterable[int]], decode: Decoder) -> dict[str, str]:
    """Decodes frames {video id: numbers} in parallel; gives the videos with a fault, and what is the first.

    One frame a thread is in memory. Decoders leave Python's lock to others while they work.
    """

    def first_fault(video: str) -> str | None:
        try:
            for _ in read_frames(root, video, numbers[video], decode):
                pass
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            found = progress(pool.map(first_fault, numbers), len(numbers), "Decoding frames")
            return {video: fault for video, fault in zip(numbers, found, strict=True) if fault}
        finally:
            pool.shutdown(cancel_futures=True)


# --- classes and clips ------------------------------------------------------------------------------------------------


def check_classes(config: Config, frames: Frames, report: Report) -> None:
    """Classes that nothing can be learned of, or that no test video shows."""
    names = class_names(config)
    undefined = ", so that AP is undefined for them and mAP with it"
    for videos, what, remark in ((frames.training, "training", ""), (frames.tested, "test", undefined)):
        shown = classes_shown(videos, len(names))
        absent = [f"{label} {name}" for label, name in enumerate(names) if label not in shown]
        if videos and absent:
            report.warn(f"{counted(len(absent), 'class')} without a {what} example: {first_few(absent)}{remark}")


def classes_shown(videos: Iterable[VideoFrames], num_classes: int) -> set[int]:
    """The classes that any frame of the videos is labelled with."""
    return {
        label
        for video, n in videos
        for label in frame_labels(video, n, num_classes).any(1).nonzero().flatten().tolist()
    }


def check_clips(config: Config, frames: Frames, report: Report) -> None:
    """The geometry of clips, in plain words."""
    data, rate = config.data, frames.rate

    def span(clip_frames: int, video_frames: int) -> str:
        seconds = f"{video_frames / rate:.1f} s"
        return f"{clip_frames} frames x stride {data.stride} = {video_frames} video frames = {seconds}"

    T = len(clip_frames(1, data.clip_span, stride=data.stride, clip_span=data.clip_span))
    window = data.fine_frames * data.stride
    where = "a video's first" if data.fine_window == "first" else "around the clip"
    report.add("clips", f"a training clip: {span(T, data.clip_span)}")
    report.add("", f"fine window: {span(data.fine_frames, window)}, {where}")
    if not frames.training:
        return
    lengths = np.array([n for _, n in frames.training])
    shorter, longer = int((lengths < data.clip_span).sum()), int((lengths > window).sum())
    usual = f"median {np.median(lengths) / rate:.1f} s, longest {lengths.max() / rate:.1f} s"
    compared = f"{shorter} shorter than a clip, {longer} longer than the fine window"
    report.add("", f"training videos: {usual}; {compared}")
    if data.fine_window == "first" and longer > MANY * len(lengths):
        report.warn(f"clips late in {longer} videos see none of their own features; use --data.fine_window centred")
