"""Samples of frames, labels and features: random clips for training, whole videos for testing (section 4).

Conventions: video frames are numbered from 1, as their files. `n` is the number of frames of a video. Clip frames are
`stride` video frames apart. T' = max(1, n // stride) is the length of a video in the test view and of its features.
Label column k (from 0) belongs to video frame k + 1.
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

FIRST_FRAMES = 10  # clips of a short video start at one of its first ten frames
MISSING_LIMIT = 0.01  # a larger share of videos without frames is an error, not a few failed downloads
FineWindow = Literal["first", "centred"]


class Skipped(NamedTuple):
    """An unreadable video and the reason."""

    video: str
    reason: str


class Sample(TypedDict):
    """One clip before collation."""

    video: str
    clip: Tensor  # (T,H,W,3) uint8
    labels: Tensor  # (C,L) float32, 0 or 1
    num_frames: int  # n
    fine_features: NotRequired[dict[str, Tensor]]  # {layer: (C,T',7,7)}
    fine_clip: NotRequired[Tensor]  # (T',H,W,3) uint8: the frames of the fine features
    fine_labels: NotRequired[Tensor]  # (C,L') float32, labels of fine_clip
    start: NotRequired[int]  # first clip frame on the axis of fine_features or fine_clip
    part: NotRequired[Part]  # test videos only: the window of the clip
    skipped: NotRequired[list[Skipped]]  # training only: the unreadable videos that this clip replaces


# --- which frames -----------------------------------------------------------------------------------------------------


def draw_first_frame(rng: np.random.Generator, n: int, clip_span: int) -> int:
    """Draw the first video frame of a training clip, uniform in [1, min(n, max(10, n - clip_span))] inclusive."""
    return int(rng.integers(1, min(n, max(FIRST_FRAMES, n - clip_span)), endpoint=True))


def clip_frames(first: int, n: int, *, stride: int, clip_span: int) -> range:
    """Return the video frames of a training clip: every stride-th of the span, up to the end of the video."""
    return range(first, min(first + clip_span - 1, n) + 1, stride)


def video_frames(n: int, stride: int) -> range:
    """Return the video frames of the test view: n // stride of them, but at least the first."""
    return range(1, video_length(n, stride) * stride + 1, stride)


def video_length(n: int, stride: int) -> int:
    """Return the number of clip frames and feature frames of a whole video (T')."""
    return max(1, n // stride)


def place_window(first: int, T: int, total: int, *, length: int, mode: FineWindow) -> tuple[int, int]:
    """Return the first feature frame visible to a clip, and the first clip frame relative to it.

    Args:
        first, T: First frame (from 0) and length of the clip on the fine axis.
        total: Feature frames of the video (T').
        length: Maximum number of feature frames passed to the network.
        mode: "first" for the first frames of the video, as published; "centred" for a window around the clip, shifted
            only as needed to stay within the video.
    """
    if mode == "first":
        return 0, first
    window = min(max(first + T // 2 - length // 2, 0), max(total - length, 0))
    return window, first - window


# --- labels -----------------------------------------------------------------------------------------------------------


def frame_labels(video: Video, n: int, num_classes: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Return labels (C, stop-start) float32 for columns start..stop-1 of a video with n frames (default: all n).

    Column k is 1 for a class iff an action of it has start < k * duration / n < end (`eval.dense.step_labels`).
    """
    times = np.arange(start, n if stop is None else stop) * video.duration / n
    return torch.from_numpy(np.ascontiguousarray(step_labels(video.actions, times, num_classes).T, np.float32))


# --- which videos -----------------------------------------------------------------------------------------------------


class VideoFrames(NamedTuple):
    """A video and its number of frames, at least 1."""

    video: Video
    n: int


class Found(NamedTuple):
    """Usable videos, and the ids of skipped ones: without frames, or too short."""

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
    """Find the usable videos and their numbers of frames.

    Args:
        videos: Annotated videos.
        frames: Folder with one folder of frames per video.
        min_frames: Skip shorter videos (training only: the test view supports any length).
        allow_missing: Accept any number of videos without frames; otherwise more than 1% is an error.
        allow_gaps: Accept videos with missing frames, for a dataset that skips unreadable videos.
        listings: Listings of the video folders, e.g. from the index; None lists them.
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
            "correct --data.frames, or skip these videos with --data.allow_missing true"
        )
    return found


# --- samples ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class _VideoDataset(Dataset[Sample | Skipped]):
    """Base class of training clips and test videos, indexed by (epoch, index).

    Attributes:
        videos: Videos and their numbers of frames, from `find_videos`.
        frames: Folder with one folder of frames per video.
        num_classes: C.
        size: Side of the network's input in pixels.
        stride: Video frames between clip frames.
        decode: JPEG decoder (default: the fastest).
        store: Features of the Fine stream, added to every sample; must contain all videos.
        fine_frames: Maximum number of feature frames per sample.
        fine_window: See `place_window`.
        fine_clips: Instead of stored features, add the frames of the features to every sample, in the clip's view.
        skip_unreadable: Report unreadable videos instead of raising.
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
        """Build a sample of the given video frames, whose first is frame `first` of the fine axis.

        All frames share the view returned by `choose_view(width, height)`.
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
        """Return labels (C,L) of clip frames start..stop-1 in the test view."""
        video, n = self.videos[index]
        return frame_labels(video, n, self.num_classes, start * self.stride, min(n, stop * self.stride))


@dataclass(kw_only=True, eq=False)
class TrainClips(_VideoDataset):
    """Random clips: item (epoch, index) is a clip of video `index`, determined by (seed, epoch, index).

    Attributes:
        seed: Random seed.
        clip_span: Video frames spanned by a clip.
    """

    seed: int
    clip_span: int = 640

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """Return a clip; with `skip_unreadable`, an unreadable video is replaced by the next one."""
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

    Item (epoch, index, number) is a window of video `index`, and (epoch, index) its first window: the whole video if it
    fits. Labels are cropped to stride * (n // stride) columns; a video shorter than one stride keeps all n.

    Attributes:
        window, overlap: In clip frames, see `datasets.windows.split`; window None: whole videos.
        windows: Windows of each video.
    """

    __test__ = False  # pytest: not a test

    window: int | None = None
    overlap: int = 0
    windows: list[list[Window]] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = [split(video_length(n, self.stride), self.window, self.overlap) for _, n in self.videos]

    def __getitem__(self, key: tuple[int, ...]) -> Sample | Skipped:
        """Return a window; with `skip_unreadable`, the reason if the video is unreadable."""
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
