"""Check the annotations, frame folders, pixels and clips of a dataset."""

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

SAMPLED = 100  # videos of which one frame is decoded without --deep
RATE_TOLERANCE = 0.02  # relative tolerance of the dataset's frame rate
OFF_BY_SECONDS = 1.0  # tolerance between frames and duration,
OFF_BY_SHARE = 0.01  # or this share of the duration if larger
MANY = 0.1  # warn if a larger share of videos exceeds the fine window


class Frames(NamedTuple):
    """Contents of the frame folders."""

    listings: dict[str, Listing]
    videos: list[VideoFrames]  # with frames
    training: list[VideoFrames]  # training videos that are long enough
    tested: list[VideoFrames]
    rate: float  # frames per second


# --- annotations ------------------------------------------------------------------------------------------------------


def check_annotations(config: Config, report: Report) -> Annotations:
    """Report the annotations and their irregularities."""
    data = config.data
    annotations = KINDS[data.kind].load(data.annotations, data.num_classes)
    report.add("annotations", f"{annotations.summary()}; {counted(data.num_classes, 'class')}")
    if odd := annotations.oddities():
        report.warn(f"unusual actions, kept unchanged: {', '.join(odd)}")
    if idle := [video.id for video in annotations.videos if not video.actions]:
        report.add("", f"{counted(len(idle), 'video')} without actions: {first_few(idle)}")
    if data.ground_truth:
        try:
            truth = read_ground_truth(data.ground_truth, data.num_classes)
        except (InputError, OSError) as error:
            report.problem(f"data.ground_truth: {one_line(error)}")
        else:
            differing = sorted({video.id for video in annotations.subset("testing")} ^ truth.keys())
            if differing:
                both = f"{data.ground_truth} and the test videos in the annotations"
                report.warn(f"{both} differ by {counted(len(differing), 'video')}: {first_few(differing)}")
    return annotations


# --- folders of frames ------------------------------------------------------------------------------------------------


def check_frames(config: Config, annotations: Annotations, report: Report) -> Frames:
    """Report missing videos, missing frames, and frame counts that do not match the durations."""
    data = config.data
    listings = list_with_index(data.frames, [video.id for video in annotations.videos], spare=config.run_dir)
    videos = [VideoFrames(video, listings[video.id].last) for video in annotations.videos if listings[video.id].last]
    rate = float(np.median([n / video.duration for video, n in videos])) if videos else 1.0
    at = f", {rate:.4g} fps (median)" if videos else ""
    total = sum(n for _, n in videos)
    report.add("frames", f"{data.frames}: {len(videos)} of {len(listings)} videos, {total:,} frames{at}")
    check_missing(data, listings, report)
    check_holes(data, listings, report)
    check_rate(data, videos, rate, report)
    listed = [entry for entry in videos if entry.video.subset == "training"]
    training = [entry for entry in listed if entry.n >= data.min_frames]
    tested = [entry for entry in videos if entry.video.subset == "testing"]
    if short := len(listed) - len(training):
        report.add("", f"{counted(short, 'training video')} shorter than data.min_frames = {data.min_frames}, skipped")
    for entries, what in ((training, "training"), (tested, "test")):
        if not entries:
            report.problem(f"no usable {what} videos; correct --data.annotations, --data.frames or --data.min_frames")
    return Frames(listings, videos, training, tested, rate)


def check_missing(data: Data, listings: Mapping[str, Listing], report: Report) -> None:
    """Report videos without frames, and folders without a video."""
    missing = [video for video, listing in listings.items() if not listing.last and not listing.stray]
    if missing:
        text = f"{counted(len(missing), 'video')} without frames: {first_few(missing)}"
        if data.allow_missing or len(missing) <= MISSING_LIMIT * len(listings):
            report.warn(text)
        else:
            report.problem(f"{text}; or skip them with --data.allow_missing true")
    with os.scandir(data.frames) as entries:
        others = sorted(entry.name for entry in entries if entry.name not in listings and entry.is_dir())
    if others:
        report.add("", f"{counted(len(others), 'folder')} without an annotated video: {first_few(others)}")


def check_holes(data: Data, listings: Mapping[str, Listing], report: Report) -> None:
    """Report gaps in the frames of a video."""
    holes = []
    for video, listing in listings.items():
        ranges = [str(first) if first == last else f"{first}-{last}" for first, last in listing.holes]
        stray = f"; {listing.stray} is not a valid frame name" if listing.stray else ""
        if ranges:
            holes.append(f"{video} ({', '.join(ranges[:3])}{', ...' if len(ranges) > 3 else ''}{stray})")
    if not holes:
        return
    text = f"{counted(len(holes), 'video')} with missing frames: {first_few(holes)}"
    if may_be_skipped(data, len(holes), len(listings)):
        report.warn(f"{text}, skipped")
    else:
        report.problem(f"{text}; extract the frames of these videos again")


def may_be_skipped(data: Data, count: int, videos: int) -> bool:
    """Return whether training tolerates this many unreadable videos."""
    return data.on_bad_sample == "skip" and count <= max(1, int(MISSING_LIMIT * videos))


def check_rate(data: Data, videos: Sequence[VideoFrames], rate: float, report: Report) -> None:
    """Report frame counts that do not match the durations."""
    usual = KINDS[data.kind].frames_per_second
    if usual and videos and abs(rate / usual - 1) > RATE_TOLERANCE:
        report.warn(f"{rate:.4g} fps, but {data.kind} has {usual:g}")
    elif usual:
        rate = usual
    off = [
        f"{video.id} (frames: {n / rate:.1f} s, annotated: {video.duration:.1f} s)"
        for video, n in videos
        if abs(n / rate - video.duration) > max(OFF_BY_SECONDS, OFF_BY_SHARE * video.duration)
    ]
    if off:
        others = f"{counted(len(off), 'video')} whose frame count does not match the duration at {rate:.4g} fps"
        report.warn(f"{others}: {first_few(off)}")


# --- pixels -----------------------------------------------------------------------------------------------------------


def check_pixels(config: Config, frames: Frames, report: Report, *, deep: bool) -> None:
    """Decode every frame, or the last frame of some videos, which shows an interrupted extraction."""
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
    """Return the numbers of the frames in a folder."""
    missing = {number for first, last in listing.holes for number in range(first, last + 1)}
    return (number for number in range(1, listing.last + 1) if number not in missing)


def unreadable(root: str | Path, numbers: Mapping[str, Iterable[int]], decode: Decoder) -> dict[str, str]:
    """Decode frames {video id: numbers} in parallel; return the first error of each faulty video.

    Each thread keeps one frame in memory. Decoders release the GIL.
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
    """Report classes without examples in the training or test videos."""
    names = class_names(config)
    undefined = ", so their AP and the mAP are undefined"
    for videos, what, remark in ((frames.training, "training", ""), (frames.tested, "test", undefined)):
        shown = classes_shown(videos, len(names))
        absent = [f"{label} {name}" for label, name in enumerate(names) if label not in shown]
        if videos and absent:
            report.warn(f"{counted(len(absent), 'class')} without a {what} example: {first_few(absent)}{remark}")


def classes_shown(videos: Iterable[VideoFrames], num_classes: int) -> set[int]:
    """Return the classes with at least one labelled frame."""
    return {
        label
        for video, n in videos
        for label in frame_labels(video, n, num_classes).any(1).nonzero().flatten().tolist()
    }


def check_clips(config: Config, frames: Frames, report: Report) -> None:
    """Report the geometry of clips."""
    data, rate = config.data, frames.rate

    def span(clip_frames: int, video_frames: int) -> str:
        seconds = f"{video_frames / rate:.1f} s"
        return f"{clip_frames} frames x stride {data.stride} = {video_frames} video frames = {seconds}"

    T = len(clip_frames(1, data.clip_span, stride=data.stride, clip_span=data.clip_span))
    window = data.fine_frames * data.stride
    where = "from the start of the video" if data.fine_window == "first" else "around the clip"
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
        report.warn(f"late clips of {longer} videos get none of their own features; use --data.fine_window centred")
