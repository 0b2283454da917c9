"""What there is to know of a dataset before training on it: of its annotations, its folders, and last of its pixels."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from common.errors import InputError
from datasets.annotations import Annotations
from datasets.clips import VideoFrames, positive_columns
from datasets.frames import Decoder, Listing, decode_frames

OFF_BY_SECONDS = 1.0  # how far frames may be from the duration, or
OFF_BY_SHARE = 0.01  # by this share of it, where that is more


def oddities(annotations: Annotations) -> dict[str, int]:
    """How many actions are odd, by kind; they are kept as they are. Only kinds that occur."""
    pairs = [(video, action) for video in annotations.videos for action in video.actions]
    counts = {
        "end after their video": annotations.beyond_duration,
        "start after their video's end": sum(action.start >= video.duration for video, action in pairs),
        "end at or before their start": annotations.empty_intervals,
        "start before 0": sum(action.start < 0 for _, action in pairs),
        "are given twice": sum(len(video.actions) - len(set(video.actions)) for video in annotations.videos),
    }
    return {kind: count for kind, count in counts.items() if count}


def videos_by_class(videos: Iterable[VideoFrames], num_classes: int) -> np.ndarray:
    """How many videos have a positive frame of each class (C,)."""
    counts = np.zeros(num_classes, int)
    for video, n in videos:
        present = {label for label, start, end in video.actions if positive_columns(start, end, video.duration, n)}
        counts[list(present)] += 1
    return counts


def frame_rate(videos: Sequence[VideoFrames]) -> float:
    """Frames a second, the median over videos (at least one)."""
    return float(np.median([n / video.duration for video, n in videos]))


def off_duration(videos: Iterable[VideoFrames], rate: float) -> list[VideoFrames]:
    """The videos whose number of frames does not fit their duration at this rate, by more than a second or 1%."""
    return [
        (video, n)
        for video, n in videos
        if abs(n / rate - video.duration) > max(OFF_BY_SECONDS, OFF_BY_SHARE * video.duration)
    ]


def present_frames(listing: Listing) -> Iterable[int]:
    """Numbers of the frames that a folder has."""
    missing = {number for first, last in listing.holes for number in range(first, last + 1)}
    return (number for number in range(1, listing.last + 1) if number not in missing)


def unreadable(
    root: str | Path, numbers: dict[str, Iterable[int]], decode: Decoder, threads: int
) -> Iterable[tuple[str, str | None]]:
    """Decodes frames {video id: numbers} in parallel; yields each video, as it is done, with its first fault or None.

    One frame a thread is in memory. Decoders leave Python's lock to others while they work.
    """
    with ThreadPoolExecutor(threads) as pool:
        videos = {pool.submit(_first_fault, root, video, some, decode): video for video, some in numbers.items()}
        try:
            for done in as_completed(videos):
                yield videos[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _first_fault(root: str | Path, video: str, numbers: Iterable[int], decode: Decoder) -> str | None:
    try:
        for _ in decode_frames(root, video, numbers, decode):
            pass
    except InputError as error:
        return str(error)
    return None
