"""Decode videos of any codec, rate and orientation to upright RGB frames at a constant rate (with PyAV, FFmpeg).

Time 0 is the timestamp of the first frame. Frame k (from 0) is the frame shown at k / fps: the last one whose timestamp
is not later. Frames are repeated or dropped as needed, so a video of variable frame rate keeps its timing, and a video
that already has `fps` frames per second is unchanged. Pixels are made square, phone videos are rotated upright, and the
longer side is resized to `size`; videos are never enlarged, which would add bytes but no detail.

    video = VideoFile("kitchen.mp4")
    for pixels in video.frames(fps=24):  # (H,W,3) uint8
        ...
    if video.problem:                    # truncated or damaged: the decodable frames were returned
        ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from common.errors import InputError

FPS = 24.0
SIZE = 320
DECLARE_DURATION = {"mov", "matroska", "avi", "flv", "asf"}  # other formats estimate it from the data
NOT_VIDEOS = {"tty", "image2"}  # FFmpeg also reads text and images as videos, as do its formats named *_pipe
COARSEST_TICK = Fraction(1, 1000)  # upper limit of a tick: AVI's is a whole frame
MISSING_SECONDS = Fraction(1, 5)  # a file that ends this much before its declared duration is truncated
JUMP_SECONDS = 1  # a larger step back in time is a new start (joined files), a smaller one a faulty timestamp
RESIZE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoFile:
    """A video file, checked to contain a video.

    Args:
        path: The file.
        size: Longer side in pixels; None keeps the original size. Smaller videos keep their size.
        threads: Number of decoder threads; 0 for one per processor.

    Attributes:
        declared_seconds: Duration declared by the file; 0 if none.
        duration: Duration by timestamps in seconds; set when `frames` is exhausted.
        num_frames: Number of frames at the requested rate, regardless of stride; set when `frames` is exhausted.
        problem: Description of damage, or None; set when `frames` is exhausted.

    Raises:
        InputError: If the file is missing, empty, or contains no decodable video.
    """

    def __init__(self, path: str | Path, *, size: int | None = SIZE, threads: int = 0) -> None:
        self.path = Path(path)
        self.size = size
        self.threads = threads
        self.duration, self.num_frames = 0.0, 0
        self.problem: str | None = None
        with self._open() as (container, _):
            self.declared_seconds = (container.duration or 0) / av.time_base

    def frames(self, *, fps: float = FPS, stride: int = 1) -> Iterator[np.ndarray]:
        """Yield frames 0, stride, 2 * stride, ... at `fps` frames per second: (H,W,3) uint8, RGB, all of one size.

        All frames are decoded, but only the requested ones converted. A repeated frame is the same array.
        Decoding continues after damage, which `problem` describes.

        Raises:
            InputError: If no frame can be decoded.
        """
        rate = Fraction(fps).limit_denominator(1001)
        k, shape = 0, None
        with self._open() as (container, stream):
            reader = _Reader(container, stream)
            for frame, until in reader.spans():
                pixels = None
                while k < until * rate:
                    if k % stride == 0:
                        if pixels is None:
                            pixels = self._upright(frame, stream.sample_aspect_ratio, shape)
                            shape = pixels.shape
                        yield pixels
                    k += 1
                end = until + reader.tick
            if k == 0:
                raise InputError(f"{self.path}: no frame can be decoded; replace the file")
            self.num_frames, self.duration, self.problem = k, float(end), reader.problem()

    def _upright(self, frame: VideoFrame, aspect: Fraction | None, shape: tuple[int, ...] | None) -> np.ndarray:
        """Convert a frame to upright RGB with square pixels, at most `self.size`, or of `shape` if given."""
        transposed, mirror_x, mirror_y = orientation(frame)
        if shape is None:
            width, height = fitted(frame.width, frame.height, aspect, self.size)
        else:  # keep the size of the first frame if the video changes its size
            height, width = shape[1::-1] if transposed else shape[:2]
        pixels = frame.reformat(width, height, "rgb24", interpolation=RESIZE, threads=1).to_ndarray()
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file and its video stream for decoding."""
        try:
            container = av.open(str(self.path.absolute()), metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); use an intact file") from None
        with container:
            name, stream = container.format.name, container.streams.best("video")
            if name.split(",")[0] in NOT_VIDEOS or name.endswith("_pipe"):
                raise InputError(f"{self.path}: not a video (FFmpeg reads it as {name})")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                raise InputError(f"{self.path}: contains no video")  # the cover picture of an audio file does not count
            if stream.codec_context is None or not stream.width:
                raise InputError(f"{self.path}: no decoder for its video; replace the file, or convert it to H.264")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            yield container, stream


# --- time -------------------------------------------------------------------------------------------------------------


class _Reader:
    """Decode frames with their times, and keep track of damage.

    Attributes:
        tick: Precision of timestamps in seconds.
        step: Seconds between frames at the stream's rate.
        declared_end: Declared end in the file's own time; None if only estimated.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.tick = min(stream.time_base or COARSEST_TICK, COARSEST_TICK)
        self.step = 1 / (stream.guessed_rate or stream.average_rate or Fraction(25))
        self.damaged = 0  # damaged packets, and frames concealed by the decoder
        self.packets = 0
        self.end = Fraction(0)  # of the last packet, including audio, in the file's own time
        self.stop: str | None = None
        self.is_avi = container.format.name == "avi"
        self.declared_end: Fraction | None = None
        if container.duration and container.format.name.split(",")[0] in DECLARE_DURATION:
            self.declared_end = Fraction(container.duration + (container.start_time or 0), av.time_base)
            if self.is_avi and stream.guessed_rate:  # FFmpeg shortens the duration of a truncated AVI
                self.declared_end = max(self.declared_end, Fraction(stream.frames) / stream.guessed_rate)

    def spans(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Yield decoded frames with the time until which each is shown, in seconds from the first frame.

        Timestamps are rounded to ticks (Matroska: 1 ms). A frame therefore counts as shown from half a tick earlier,
        and the last one, whose duration is also rounded, until a whole tick earlier.
        """
        shown, shown_at = None, Fraction(0)
        for time, frame in self._times():
            if shown is not None:
                yield shown, time - self.tick / 2
            shown, shown_at = frame, time
        if shown is not None:
            yield shown, shown_at + (shown.duration * (shown.time_base or 0) or self.step) - self.tick

    def _times(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Yield frames with non-decreasing times relative to the first frame.

        AVI has no presentation times: its decoding times count frames in output order. A frame without a timestamp, or
        with one far beyond the end of the file (damage), is placed `step` seconds after the previous one.
        """
        origin, last = None, -self.step
        for frame in self._frames():
            ticks = frame.dts if self.is_avi else frame.pts
            time = last + self.step
            if ticks is not None and frame.time_base:
                stated = ticks * frame.time_base
                origin = stated if origin is None else origin
                if stated - origin < last - JUMP_SECONDS:
                    origin = stated - time
                if self.declared_end is None or stated < self.declared_end + JUMP_SECONDS:
                    time = stated - origin
            last = max(time, last, Fraction(0))
            yield last, frame

    def _frames(self) -> Iterator[VideoFrame]:
        """Yield the frames of the stream; audio packets only determine the end of the file."""
        wanted = [stream for stream in self.container.streams if stream.type == "audio"] + [self.stream]
        try:
            for packet in self.container.demux(wanted):
                if packet.pts is not None and packet.time_base:
                    self.end = max(self.end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not self.stream:
                    continue
                self.packets += packet.size > 0
                self.damaged += packet.is_corrupt
                try:
                    frames = self.stream.decode(packet)
                except av.FFmpegError:
                    self.damaged += 1
                    continue
                for frame in frames:
                    self.damaged += frame.is_corrupt
                    yield frame
        except av.FFmpegError as error:
            self.stop = error.strerror

    def problem(self) -> str | None:
        """Describe the damage of a file that has been read to its end."""
        found = [f"reading stopped: {self.stop}"] if self.stop else []
        if self.declared_end is not None and self.end < self.declared_end - MISSING_SECONDS:
            found.append(f"ends at {float(self.end):.1f} s of {float(self.declared_end):.1f} s: truncated")
        if self.damaged:
            found.append(f"{self.damaged} of {self.packets} frames damaged")
        return "; ".join(found) or None


# --- space ------------------------------------------------------------------------------------------------------------


def fitted(width: int, height: int, aspect: Fraction | None, size: int | None) -> tuple[int, int]:
    """Return width and height with square pixels and a longer side of at most `size`; `aspect` is that of a pixel."""
    wide = width * (aspect or Fraction(1))
    scale = min(Fraction(1), size / max(wide, Fraction(height))) if size else Fraction(1)
    return max(1, round(wide * scale)), max(1, round(height * scale))


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether an image must be transposed, then flipped in x and in y, to be upright.

    This is its display matrix, rounded to a right angle. The matrix (ISO 14496-12) has the entries a b u, c d v, x y w
    and maps the stored pixel (x,y) to (a x + c y, b x + d y), with y downwards; flipping replaces the translation.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, Buffer):
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
