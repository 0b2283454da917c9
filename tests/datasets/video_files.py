"""Tiny video files made on the fly, whose every frame tells its number, or its corners by colour."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
BITS = 8
CORNERS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]], np.uint8)  # red green, blue yellow
CODECS = {
    ".avi": "mpeg4", ".flv": "flv", ".h264": "libx264", ".mkv": "libx264", ".mov": "mpeg4", ".mp4": "libx264",
    ".mpg": "mpeg2video", ".ts": "libx264", ".webm": "libvpx-vp9",
}  # fmt: skip


def numbered(k: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height,width,3): the bits of k as black and white columns."""
    bits = k >> np.arange(BITS) & 1
    return np.broadcast_to(255 * bits.astype(np.uint8).repeat(width // BITS)[None, :, None], (height, width, 3))


def number_of(pixels: np.ndarray) -> int:
    """The number that a frame, of whatever size, tells."""
    columns = pixels.mean(axis=(0, 2)).reshape(BITS, -1).mean(1)
    return int((columns > 127) @ (1 << np.arange(BITS)))


def corners(k: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height,width,3): a quarter in each of four colours."""
    return CORNERS.repeat(height // 2, 0).repeat(width // 2, 1)


def write_video(
    path: Path,
    stamps: int | Sequence[int],
    *,
    tick: Fraction = Fraction(1, 24),
    last: int = 1,
    picture: Callable[[int, int, int], np.ndarray] = numbered,
    width: int = WIDTH,
    height: int = HEIGHT,
    codec: str | None = None,
    rotation: tuple | None = None,
    aspect: Fraction | None = None,
    b_frames: bool = True,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of frames with these timestamps (or of so many, a tick apart), the last one shown for `last` ticks.

    Args:
        rotation: Arguments of PyAV's set_display_rotation: degrees anticlockwise, mirrored in x, in y.
        aspect: A pixel's width over its height.
        b_frames: Let the encoder use them; MP4 states durations in order of decoding: with them, not the last frame's.
        options: The container's.
    """
    stamps = range(stamps) if isinstance(stamps, int) else stamps
    durations = dict(zip(stamps, [*np.diff(stamps).tolist(), last], strict=True))
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.bit_rate = 400_000
        stream.codec_context.thread_count = 1
        if not b_frames:
            stream.codec_context.max_b_frames = 0
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(*rotation)
        for k, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(k, width, height)))
            frame.pts, frame.time_base = stamp, tick
            _mux(container, stream.encode(frame), durations)
        _mux(container, stream.encode(), durations)
    return path


def _mux(container: av.container.OutputContainer, packets: list[av.Packet], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations.get(packet.pts, packet.duration)
        container.mux(packet)


def write_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame) + stream.encode())
    return path
