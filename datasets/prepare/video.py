"""Video files as upright RGB frames at a constant rate, whatever their codec, rate and orientation (with PyAV, FFmpeg).

Time 0 is the first frame's timestamp, and frame k (from 0) is the frame shown at k / fps: the latest whose timestamp
is not after it. So a video of variable frame rate keeps its timing, frames are repeated or left out as needed, and a
video that already has `fps` frames a second comes out frame by frame. Pixels are made square, phone videos are turned
upright, and the longer side becomes `size`; a video is never enlarged, since that adds bytes and no detail.

    video = VideoFile("kitchen.mp4")
    for pixels in video.frames(fps=24):  # (H,W,3) uint8
        ...
    if video.problem:                    # truncated, damaged: what could be decoded came out
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
DECLARE_DURATION = {"mov", "matroska", "avi", "flv", "asf"}  # others estimate it from what is there
NOT_VIDEOS = {"tty", "image2"}  # FFmpeg shows text and pictures as videos too; so do its formats named *_pipe
COARSEST_TICK = Fraction(1, 1000)  # no timestamp is taken to be less precise: AVI's tick is a whole frame
MISSING_SECONDS = Fraction(1, 5)  # a file that ends this much before its own duration has been cut off
JUMP_SECONDS = 1  # a step back in time beyond this is a new start (joined files), below it a faulty timestamp
RESIZE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoFile:
    """A video file that has been opened once and found to hold a video.

    Args:
        path: The file.
        size: Pixels of the longer side; None keeps the video's own. A smaller video keeps its size.
        threads: Threads of the decoder; 0 for as many as there are processors.

    Attributes:
        declared_seconds: Duration that the file states; 0 where it states nothing.
        duration: Once `frames` has run to its end: seconds by its timestamps.
        num_frames: Once `frames` has run to its end: frames at its rate, whatever its stride.
        problem: Once `frames` has run to its end: what is wrong with the file, in words; None where nothing is.

    Raises:
        InputError: For a file that is absent, empty, or holds no video that can be decoded.
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
        """Frames 0, stride, 2 * stride... at `fps` frames a second: (H,W,3) uint8, RGB, all of one size.

        Every frame is decoded, and those asked for are converted. A frame that is repeated is the same array.
        Damage does not end it early: what can be decoded comes out, and `problem` says the rest.

        Raises:
            InputError: For a file of which no frame can be decoded.
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
                raise InputError(f"{self.path}: no frame of it can be decoded; get the file again")
            self.num_frames, self.duration, self.problem = k, float(end), reader.problem()

    def _upright(self, frame: VideoFrame, aspect: Fraction | None, shape: tuple[int, ...] | None) -> np.ndarray:
        """The frame in RGB, upright, with square pixels, of at most the size asked for; of `shape` where given."""
        transposed, mirror_x, mirror_y = orientation(frame)
        if shape is None:
            width, height = fitted(frame.width, frame.height, aspect, self.size)
        else:  # a video that changes its size midway keeps its first frame's
            height, width = shape[1::-1] if transposed else shape[:2]
        pixels = frame.reformat(width, height, "rgb24", interpolation=RESIZE, threads=1).to_ndarray()
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The file and its video stream, ready to be decoded."""
        try:
            container = av.open(str(self.path.absolute()), metadata_errors="replace")
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); give a whole video file") from None
        with container:
            name, stream = container.format.name, container.streams.best("video")
            if name.split(",")[0] in NOT_VIDEOS or name.endswith("_pipe"):
                raise InputError(f"{self.path}: not a video (FFmpeg reads it as {name})")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                raise InputError(f"{self.path}: no video in it")  # a cover picture in an audio file is none
            if stream.codec_context is None or not stream.width:
                raise InputError(f"{self.path}: no decoder for its video; get the file again, or convert it to H.264")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            yield container, stream


# --- time -------------------------------------------------------------------------------------------------------------


class _Reader:
    """Decodes what can be decoded, tells its time, and keeps an account of the rest.

    Attributes:
        tick: Seconds to which a timestamp is precise.
        step: Seconds from a frame to the next, by the stream's rate.
        declared_end: Where the file says that it ends, as it counts time; None where it only guesses.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.tick = min(stream.time_base or COARSEST_TICK, COARSEST_TICK)
        self.step = 1 / (stream.guessed_rate or stream.average_rate or Fraction(25))
        self.damaged = 0  # packets, and frames that the decoder had to make up
        self.packets = 0
        self.end = Fraction(0)  # of the last packet, sound included, as the file counts time
        self.stop: str | None = None
        self.is_avi = container.format.name == "avi"
        self.declared_end: Fraction | None = None
        if container.duration and container.format.name.split(",")[0] in DECLARE_DURATION:
            self.declared_end = Fraction(container.duration + (container.start_time or 0), av.time_base)
            if self.is_avi and stream.guessed_rate:  # FFmpeg scales a short AVI's duration down; its header keeps count
                self.declared_end = max(self.declared_end, Fraction(stream.frames) / stream.guessed_rate)

    def spans(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Decoded frames, each with the time until which it is shown, in seconds from the first frame.

        A timestamp is rounded to its tick (Matroska's: 1 ms), so a frame counts as shown from half a tick earlier, and
        the last one, whose duration is rounded too, until a whole tick earlier.
        """
        shown, shown_at = None, Fraction(0)
        for time, frame in self._times():
            if shown is not None:
                yield shown, time - self.tick / 2
            shown, shown_at = frame, time
        if shown is not None:
            yield shown, shown_at + (shown.duration * (shown.time_base or 0) or self.step) - self.tick

    def _times(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Frames with their times from the first one's, never falling.

        AVI has no presentation times: its decoding times count frames in the order in which they come out. A frame
        without a timestamp, or with one far beyond the file's end (damage), comes `step` seconds after the one before.
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
        """The stream's frames; the packets of the others only say where the file ends."""
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
        """What is wrong with a file that has been read to its end."""
        found = [f"reading stopped: {self.stop}"] if self.stop else []
        if self.declared_end is not None and self.end < self.declared_end - MISSING_SECONDS:
            found.append(f"ends at {float(self.end):.1f} s of {float(self.declared_end):.1f} s: cut off")
        if self.damaged:
            found.append(f"{self.damaged} of {self.packets} frames damaged")
        return "; ".join(found) or None


# --- space ------------------------------------------------------------------------------------------------------------


def fitted(width: int, height: int, aspect: Fraction | None, size: int | None) -> tuple[int, int]:
    """Width and height with square pixels, the longer at most `size`; `aspect` is a pixel's width over its height."""
    wide = width * (aspect or Fraction(1))
    scale = min(Fraction(1), size / max(wide, Fraction(height))) if size else Fraction(1)
    return max(1, round(wide * scale)), max(1, round(height * scale))


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How a stored picture becomes upright: whether it is first transposed, then mirrored in x, in y.

    That is its display matrix to the nearest right angle. The matrix (ISO 14496-12) has its entries in the order a b u,
    c d v, x y w, and takes the stored pixel (x,y) to (a x + c y, b x + d y), y downwards; the shift back into the
    picture is left to mirroring.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, Buffer):
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
