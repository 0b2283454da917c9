"""Which frames, labels and features make a sample: clips for training, whole videos for the test view (section 4).

Numbers in this file: video frames are 1-based as their files; `n` is a video's number of frames; clip frames are
`stride` video frames apart; T' = max(1, n // stride) is the length of a video in the test view, hence of its features.
Label column k (from 0) stands for video frame k + 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from datasets.annotations import Video
from datasets.features import FeatureStore
from datasets.frames import Decoder, Listing, get_decoder, list_all_frames, read_frames, usable_frames
from datasets.transforms import View, augmented_view, centred_view, render
from datasets.windows import Part, split

FIRST_FRAMES = 10  # a video too short to choose from still starts at one of its first ten frames
MISSING_LIMIT = 0.01  # more than this share of videos without frames is a mistake, not a few failed downloads
FINE_WINDOWS = ("first", "centred")


class Skipped(NamedTuple):
    """A video that cannot be read, and the line that says why."""

    video: str
    reason: str


class Sample(TypedDict):
    """One clip before collation; of a test video that is skipped, `skipped` alone."""

    video: str
    clip: Tensor  # (3,T,H,W) uint8
    labels: Tensor  # (C,L) float32, 0 or 1
    num_frames: int  # n
    duration: float  # seconds
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (C,T',7,7)}
    fine_clip: NotRequired[Tensor]  # (3,T',H,W) uint8: the frames that fine features would be of
    fine_labels: NotRequired[Tensor]  # (C,L') float32, of fine_clip
    start: NotRequired[int]  # the clip's first frame on the axis of fine_features or fine_clip
    part: NotRequired[Part]  # of a test video: the window that the clip is
    skipped: NotRequired[list[Skipped]]  # videos that could not be read, in whose place this one is


# --- which frames -----------------------------------------------------------------------------------------------------


def draw_first_frame(rng: np.random.Generator, n: int, clip_span: int) -> int:
    """First video frame of a training clip: uniform in [1, max(10, n - clip_span)], both included, within the video."""
    return int(rng.integers(1, min(n, max(FIRST_FRAMES, n - clip_span)), endpoint=True))


def clip_frames(first: int, n: int, *, stride: int, clip_span: int) -> range:
    """Video frames of a training clip: every stride-th of the span, as far as the video goes."""
    return range(first, min(first + clip_span - 1, n) + 1, stride)


def video_frames(n: int, stride: int) -> range:
    """Video frames of the test view: n // stride of them from the first; a video below one stride gives its first."""
    return range(1, video_length(n, stride) * stride + 1, stride)


def video_length(n: int, stride: int) -> int:
    """Clip frames of a whole video (T'), also the length of its features."""
    return max(1, n // stride)


def place_window(first: int, T: int, total: int, *, length: int, mode: str) -> tuple[int, int]:
    """First feature frame that a clip gets to see, and the clip's first frame relative to it.

    Args:
        first, T: The clip on the fine axis: its first frame (from 0) and its frames.
        total: Feature frames of the video (T').
        length: Feature frames that the network is given at most.
        mode: "first" for the video's first frames, as published; "centred" for a window around the clip, moved as
            little as it takes to stay within the video.
    """
    if mode == "first":
        return 0, first
    window = min(max(first + T // 2 - length // 2, 0), max(total - length, 0))
    return window, first - window


# --- labels -----------------------------------------------------------------------------------------------------------


def frame_labels(video: Video, n: int, num_classes: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Labels (C, stop-start) float32 of label columns start..stop-1 of a video with n frames (by default all n).

    Column k is 1 for a class iff an action of it has start < k * duration / n < end, both strict.
    """
    times = np.arange(start, n if stop is None else stop) * video.duration / n
    labels = np.zeros((num_classes, len(times)), np.float32)
    for label, begin, end in video.actions:
        labels[label, np.searchsorted(times, begin, "right") : np.searchsorted(times, end, "left")] = 1
    return torch.from_numpy(labels)


# --- which videos -----------------------------------------------------------------------------------------------------


class VideoFrames(NamedTuple):
    """A video whose frames are there, and how many."""

    video: Video
    n: int


@dataclass(frozen=True)
class Found:
    """Videos with frames, and those left out."""

    videos: list[VideoFrames]
    missing: list[str]
    short: list[str]

    def report(self) -> str:
        """One line for the console; missing videos by name."""
        line = f"{len(self.videos)} videos"
        if self.short:
            line += f", {len(self.short)} left out as too short"
        if self.missing:
            line += f", {len(self.missing)} without frames: {', '.join(self.missing)}"
        return line


def find_videos(
    videos: Sequence[Video],
    frames: str | Path,
    *,
    min_frames: int = 1,
    allow_missing: bool = False,
    allow_gaps: bool = False,
    listings: Mapping[str, Listing] | None = None,
) -> Found:
    """The videos that can be used, with their numbers of frames.

    Args:
        videos: Listed videos.
        frames: The folder with one folder of frames per video.
        min_frames: Shorter videos are left out (for training only: the test view takes any length).
        allow_missing: Accept any number of videos without frames; otherwise more than 1% is an error.
        allow_gaps: Accept videos that lack a frame among others, for a dataset that skips what cannot be read.
        listings: Of the videos' folders, such as the index gives; None to list them.
    """
    ids = [video.id for video in videos]
    listings = list_all_frames(frames, ids) if listings is None else listings
    counts = {video: usable_frames(frames, video, listings[video], allow_gaps=allow_gaps) for video in ids}
    found = select_videos(videos, counts, min_frames)
    missing = found.missing
    if len(missing) > MISSING_LIMIT * len(videos) and not allow_missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise InputError(
            f"{frames}: {len(missing)} of {len(videos)} videos have no frames: {shown}; "
            "correct --data.frames, or go without them by --data.allow_missing true"
        )
    return found


def select_videos(videos: Sequence[Video], counts: Mapping[str, int], min_frames: int) -> Found:
    """Sort videos by their numbers of frames {id: n} into those to use, without frames, and below `min_frames`."""
    present = [VideoFrames(video, counts[video.id]) for video in videos if counts[video.id]]
    return Found(
        videos=[entry for entry in present if entry.n >= min_frames],
        missing=[video.id for video in videos if not counts[video.id]],
        short=[video.id for video, n in present if n < min_frames],
    )


# --- samples ----------------------------------------------------------------------------------------------------------


class _VideoDataset(Dataset):
    """What training clips and test videos have in common; indexed by (epoch, index)."""

    def __init__(
        self,
        videos: Sequence[VideoFrames],
        frames: str | Path,
        *,
        num_classes: int,
        size: int,
        stride: int = 10,
        decode: Decoder | None = None,
        store: FeatureStore | None = None,
        fine_frames: int = 128,
        fine_window: str = "first",
        fine_clips: bool = False,
        skip_unreadable: bool = False,
    ):
        """
        Args:
            videos: Videos and their numbers of frames, from `find_videos`.
            frames: The folder with one folder of frames per video.
            num_classes: C.
            size: Pixels of the square that the network sees.
            stride: Video frames between clip frames.
            decode: JPEG decoder; None for the fastest.
            store: Features of the Fine stream, added to every sample; must have all the videos.
            fine_frames: Feature frames of a sample at most.
            fine_window: "first" or "centred"; see `place_window`.
            fine_clips: In place of stored features, every sample has the frames that they would be of, in its own view.
            skip_unreadable: A video that cannot be read is reported in its sample; otherwise it is an error.
        """
        if fine_window not in FINE_WINDOWS:
            raise InputError(f"--data.fine_window {fine_window}: choose one of {', '.join(FINE_WINDOWS)}")
        if store is not None:
            store.require({video.id: video_length(n, stride) for video, n in videos})
        self.videos = list(videos)
        self.frames = Path(frames)
        self.num_classes = num_classes
        self.size = size
        self.stride = stride
        self.decode = decode or get_decoder()
        self.store = store
        self.fine_frames = fine_frames
        self.fine_window = fine_window
        self.fine_clips = fine_clips
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.videos)

    def _sample(
        self, index: int, numbers: range, choose_view: Callable[[int, int], View], labels: Tensor, first: int
    ) -> Sample:
        """The clip of these video frames, and what the Fine stream sees or has seen of the video.

        Args:
            choose_view: Width and height of the video's frames -> the view of all that is shown of it.
            first: The clip's first frame on the fine axis, from 0.
        """
        video, n = self.videos[index]
        total = video_length(n, self.stride)
        window, start = place_window(first, len(numbers), total, length=self.fine_frames, mode=self.fine_window)
        fine = video_frames(n, self.stride)[window : window + self.fine_frames] if self.fine_clips else range(0)
        shown = sorted({*numbers, *fine})
        images = read_frames(self.frames, video.id, shown, self.decode)
        height, width = images[0].shape[1:]
        seen = render(images, choose_view(width, height), self.size)
        clip = _choose(seen, shown, numbers)
        sample = Sample(video=video.id, clip=clip, labels=labels, num_frames=n, duration=video.duration)
        if self.store is not None:
            sample["fine_features"] = self.store.read(video.id, window, window + self.fine_frames)
        if self.fine_clips:
            sample["fine_clip"] = _choose(seen, shown, fine)
            sample["fine_labels"] = self._labels(index, window, window + len(fine))
        if self.store is not None or self.fine_clips:
            sample["start"] = start
        return sample

    def _labels(self, index: int, start: int, stop: int) -> Tensor:
        """Labels (C,L) of the video's frames start..stop-1 in the test view."""
        video, n = self.videos[index]
        return frame_labels(video, n, self.num_classes, start * self.stride, min(n, stop * self.stride))


def _choose(seen: Tensor, shown: Sequence[int], numbers: range) -> Tensor:
    """The clip (3,T,H,W) of these video frames among all that are shown, `seen` (3,len(shown),H,W); memory alike."""
    if len(shown) == len(numbers):
        return seen
    return seen.permute(1, 2, 3, 0)[np.searchsorted(shown, numbers)].permute(3, 0, 1, 2)


class TrainClips(_VideoDataset):
    """Random clips: item (epoch, index) is one clip of the index-th video, always the same for the same seed."""

    def __init__(
        self, videos: Sequence[VideoFrames], frames: str | Path, *, seed: int, clip_span: int = 640, **options: object
    ):
        """`clip_span`: video frames that a clip covers; all else as `TestVideos`."""
        super().__init__(videos, frames, **options)
        self.seed = seed
        self.clip_span = clip_span

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """In place of a video that cannot be read, where that is not an error, comes the next one's clip."""
        if not self.skip_unreadable:
            return self._clip(*key)
        epoch, first = key
        skipped = []
        for index in range(first, first + len(self)):
            try:
                sample = self._clip(epoch, index % len(self))
            except InputError as error:
                skipped.append(Skipped(self.videos[index % len(self)].video.id, str(error)))
            else:
                return sample | {"skipped": skipped} if skipped else sample
        raise InputError(skipped[0].reason)

    def _clip(self, epoch: int, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, index])
        video, n = self.videos[index]
        first = draw_first_frame(rng, n, self.clip_span)
        numbers = clip_frames(first, n, stride=self.stride, clip_span=self.clip_span)
        labels = frame_labels(video, n, self.num_classes, first - 1, min(first + self.clip_span - 1, n))
        view = partial(augmented_view, rng, size=self.size)
        return self._sample(index, numbers, view, labels, first // self.stride)


class TestVideos(_VideoDataset):
    """Videos in the test view, whole or in windows; the same items in every epoch.

    Item (epoch, index, number) is a window of the index-th video, (epoch, index) its first: the whole video where it
    fits one. Labels are cut to stride * (n // stride) columns; a video below one stride keeps all its n.
    """

    __test__ = False  # pytest: not a test

    def __init__(
        self,
        videos: Sequence[VideoFrames],
        frames: str | Path,
        *,
        window: int | None = None,
        overlap: int = 0,
        **options: object,
    ) -> None:
        """`window`, `overlap`: clip frames, see `datasets.windows.split`; None: whole videos. All else as above."""
        super().__init__(videos, frames, **options)
        self.windows = [split(video_length(n, self.stride), window, overlap) for _, n in self.videos]

    def __getitem__(self, key: tuple[int, int] | tuple[int, int, int]) -> Sample:
        _, index, *number = key
        try:
            return self._window(index, Part(*number or (0,), self.windows[index]))
        except InputError as error:
            if not self.skip_unreadable:
                raise
            return Sample(skipped=[Skipped(self.videos[index].video.id, str(error))])

    def _window(self, index: int, part: Part) -> Sample:
        start, stop = part.windows[part.number]
        numbers = video_frames(self.videos[index].n, self.stride)[start:stop]
        return self._sample(index, numbers, centred_view, self._labels(index, start, stop), start) | {"part": part}
