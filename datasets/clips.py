"""Which frames, labels and features make a sample: clips for training, whole videos for the test view (section 4).

Numbers in this file: video frames are 1-based as their files; `n` is a video's number of frames; clip frames are
`stride` video frames apart; T' = max(1, n // stride) is the length of a video in the test view, hence of its features.
Label column k (from 0) stands for video frame k + 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from common.text import first_few
from datasets.annotations import Video
from datasets.features import FeatureStore
from datasets.frames import Decoder, Listing, get_decoder, list_frames, look_into_folders, read_frames, usable_frames
from datasets.transforms import View, augmented_view, centred_view, render
from datasets.windows import Part, Window, split
from eval.dense import step_labels

FIRST_FRAMES = 10  # a video too short to choose from still starts at one of its first ten frames
MISSING_LIMIT = 0.01  # more than this share of videos without frames is a mistake, not a few failed downloads
FineWindow = Literal["first", "centred"]


class Skipped(NamedTuple):
    """A video that cannot be read, and the line that says why."""

    video: str
    reason: str


class Sample(TypedDict):
    """One clip before collation."""

    video: str
    clip: Tensor  # (T,H,W,3) uint8
    labels: Tensor  # (C,L) float32, 0 or 1
    num_frames: int  # n
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (C,T',7,7)}
    fine_clip: NotRequired[Tensor]  # (T',H,W,3) uint8: the frames that fine features would be of
    fine_labels: NotRequired[Tensor]  # (C,L') float32, of fine_clip
    start: NotRequired[int]  # the clip's first frame on the axis of fine_features or fine_clip
    part: NotRequired[Part]  # of a test video: the window that the clip is
    skipped: NotRequired[list[Skipped]]  # of training: videos that could not be read, in whose place this one is


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


def place_window(first: int, T: int, total: int, *, length: int, mode: FineWindow) -> tuple[int, int]:
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

    Column k is 1 for a class iff an action of it has start < k * duration / n < end (`eval.dense.step_labels`).
    """
    times = np.arange(start, n if stop is None else stop) * video.duration / n
    return torch.from_numpy(np.ascontiguousarray(step_labels(video.actions, times, num_classes).T, np.float32))


# --- which videos -----------------------------------------------------------------------------------------------------


class VideoFrames(NamedTuple):
    """A video whose frames are there, and how many."""

    video: Video
    n: int


class Found(NamedTuple):
    """Videos with frames, and the ids of those left out: without frames, or too short."""

    videos: list[VideoFrames]
    missing: list[str]
    short: list[str]


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
    if listings is None:
        listings = look_into_folders(frames, [video.id for video in videos], list_frames)
    found = Found([], [], [])
    for video in videos:
        n = usable_frames(frames, video.id, listings[video.id], allow_gaps=allow_gaps)
        if n >= max(1, min_frames):
            found.videos.append(VideoFrames(video, n))
        else:
            (found.short if n else found.missing).append(video.id)
    if len(found.missing) > MISSING_LIMIT * len(videos) and not allow_missing:
        raise InputError(
            f"{frames}: {len(found.missing)} of {len(videos)} videos have no frames: {first_few(found.missing)}; "
            "correct --data.frames, or go without them by --data.allow_missing true"
        )
    return found


# --- samples ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class _VideoDataset(Dataset[Sample | Skipped]):
    """What training clips and test videos have in common; indexed by (epoch, index).

    Attributes:
        videos: Videos and their numbers of frames, from `find_videos`.
        frames: The folder with one folder of frames per video.
        num_classes: C.
        size: Pixels of the square that the network sees.
        stride: Video frames between clip frames.
        decode: JPEG decoder; by default the fastest.
        store: Features of the Fine stream, added to every sample; must have all the videos.
        fine_frames: Feature frames of a sample at most.
        fine_window: See `place_window`.
        fine_clips: In place of stored features, every sample has the frames that they would be of, in its own view.
        skip_unreadable: A video that cannot be read is reported in its place; otherwise it is an error.
    """

    videos: Sequence[VideoFrames] = field(kw_only=False)
    frames: str | Path = field(kw_only=False)
    num_classes: int
    size: int
    stride: int = 10
    decode: Decoder = field(default_factory=get_decoder)
    store: FeatureStore | None = None
    fine_frames: int = 128
    fine_window: FineWindow = "first"
    fine_clips: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.store is not None:
            self.store.require({video.id: video_length(n, self.stride) for video, n in self.videos})

    def __len__(self) -> int:
        return len(self.videos)

    def _sample(
        self, index: int, numbers: range, choose_view: Callable[[int, int], View], labels: Tensor, first: int
    ) -> Sample:
        """The clip of these video frames, `first` on the fine axis, and what the Fine stream sees of the video.

        All of it is shown in the view that `choose_view` gives for the width and height of the video's frames.
        """
        video, n = self.videos[index]
        total = video_length(n, self.stride)
        window, start = place_window(first, len(numbers), total, length=self.fine_frames, mode=self.fine_window)
        fine = video_frames(n, self.stride)[window : window + self.fine_frames] if self.fine_clips else range(0)
        shown = sorted({*numbers, *fine})
        images = list(read_frames(self.frames, video.id, shown, self.decode))
        height, width, _ = images[0].shape
        seen = render(images, choose_view(width, height), self.size)  # (len(shown),size,size,3)

        def clip_of(some: range) -> Tensor:
            return seen if len(some) == len(shown) else seen[np.searchsorted(shown, some)]

        sample = Sample(video=video.id, clip=clip_of(numbers), labels=labels, num_frames=n)
        if self.store is not None:
            sample["fine_features"] = self.store.read(video.id, window, window + self.fine_frames)
        if self.fine_clips:
            sample["fine_clip"] = clip_of(fine)
            sample["fine_labels"] = self._labels(index, window, window + len(fine))
        if self.store is not None or self.fine_clips:
            sample["start"] = start
        return sample

    def _labels(self, index: int, start: int, stop: int) -> Tensor:
        """Labels (C,L) of the video's frames start..stop-1 in the test view."""
        video, n = self.videos[index]
        return frame_labels(video, n, self.num_classes, start * self.stride, min(n, stop * self.stride))


@dataclass(kw_only=True, eq=False)
class TrainClips(_VideoDataset):
    """Random clips: item (epoch, index) is one clip of the index-th video, always the same for the same seed.

    Attributes:
        seed: Of every draw.
        clip_span: Video frames that a clip covers.
    """

    seed: int
    clip_span: int = 640

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """In place of a video that cannot be read, where that is not an error, comes the next one's clip."""
        epoch, first = key
        skipped: list[Skipped] = []
        while True:
            index = (first + len(skipped)) % len(self)
            try:
                sample = self._clip(epoch, index)
            except InputError as error:
                skipped.append(Skipped(self.videos[index].video.id, str(error)))
                if not self.skip_unreadable or len(skipped) == len(self):
                    raise
            else:
                if skipped:
                    sample["skipped"] = skipped
                return sample

    def _clip(self, epoch: int, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, index])
        video, n = self.videos[index]
        first = draw_first_frame(rng, n, self.clip_span)
        numbers = clip_frames(first, n, stride=self.stride, clip_span=self.clip_span)
        labels = frame_labels(video, n, self.num_classes, first - 1, min(first + self.clip_span - 1, n))
        view = partial(augmented_view, rng, size=self.size)
        return self._sample(index, numbers, view, labels, first // self.stride)


@dataclass(kw_only=True, eq=False)
class TestVideos(_VideoDataset):
    """Videos in the test view, whole or in windows; the same items in every epoch.

    Item (epoch, index, number) is a window of the index-th video, (epoch, index) its first: the whole video where it
    fits one. Labels are cut to stride * (n // stride) columns; a video below one stride keeps all its n.

    Attributes:
        window, overlap: Clip frames, see `datasets.windows.split`; None: whole videos.
        windows: Those of each video.
    """

    __test__ = False  # pytest: not a test

    window: int | None = None
    overlap: int = 0
    windows: list[list[Window]] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = [split(video_length(n, self.stride), self.window, self.overlap) for _, n in self.videos]

    def __getitem__(self, key: tuple[int, ...]) -> Sample | Skipped:
        """Of a video that cannot be read, where that is not an error, comes the reason."""
        _, index, *number = key
        part = Part(number[0] if number else 0, self.windows[index])
        start, stop = part.windows[part.number]
        numbers = video_frames(self.videos[index].n, self.stride)[start:stop]
        try:
            sample = self._sample(index, numbers, centred_view, self._labels(index, start, stop), start)
        except InputError as error:
            if not self.skip_unreadable:
                raise
            return Skipped(self.videos[index].video.id, str(error))
        sample["part"] = part
        return sample
