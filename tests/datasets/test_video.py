"""Video files: the right frames at the right times, upright, whole or with what is wrong with them."""

import math
import os
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import InputError
from datasets.prepare.video import VideoFile, fitted
from tests.datasets.video_files import (
    CODECS,
    CORNERS,
    HEIGHT,
    WIDTH,
    corners,
    number_of,
    numbered,
    write_sound,
    write_video,
)

INTERVALS = (0.004, 0.02, 0.0334, 0.1, 0.7)  # seconds between frames: from far above to far below 24 a second


def numbers(video: VideoFile, **options) -> list[int]:
    return [number_of(pixels) for pixels in video.frames(**options)]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [24, 10, 29.97])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_variable_rate_gives_the_frame_shown_at_each_moment(tmp_path, suffix, fps):
    tick, rate = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 90_000), Fraction(str(fps))
    rng, stamps = random.Random(suffix), [0]
    while len(stamps) < 40:
        stamp = stamps[-1] + round(rng.choice(INTERVALS) / tick)
        beside = abs(stamp * tick - round(stamp * tick * rate) / rate)  # from the nearest moment of a frame
        if beside > tick:  # else rounding decides what is shown then
            stamps.append(stamp)
    last = round(0.15 / tick)
    path = write_video(tmp_path / f"v{suffix}", stamps, tick=tick, last=last, b_frames=suffix != ".mp4")
    video = VideoFile(path)
    got = numbers(video, fps=fps)
    end = (stamps[-1] + last) * tick if suffix != ".ts" else Fraction(video.duration)  # TS keeps no duration
    moments = [k / rate for k in range(math.ceil((end - 2 * tick) * rate))]
    assert got == [max(i for i, stamp in enumerate(stamps) if stamp * tick <= moment) for moment in moments]
    assert video.num_frames == len(got)
    assert video.duration == pytest.approx(float(end), abs=float(tick))
    assert video.problem is None


@pytest.mark.parametrize("suffix", CODECS)
def test_24_a_second_come_out_one_by_one(tmp_path, suffix):
    """Timestamps in milliseconds, none at all, or from 1.4 s on: all the same."""
    video = VideoFile(write_video(tmp_path / f"v{suffix}", 50))
    assert numbers(video) == list(range(50))
    assert video.duration == pytest.approx(50 / 24, abs=0.002)
    assert video.problem is None


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_has_only_decoding_times(tmp_path, codec):
    """Its H.264 with B-frames has presentation times in no order."""
    assert numbers(VideoFile(write_video(tmp_path / "v.avi", 50, codec=codec))) == list(range(50))


def test_rates_are_converted(tmp_path):
    thirty = VideoFile(write_video(tmp_path / "thirty.mp4", 60, tick=Fraction(1, 30)))
    assert numbers(thirty) == [k * 30 // 24 for k in range(48)]
    twelve = VideoFile(write_video(tmp_path / "twelve.mp4", 12, tick=Fraction(1, 12)))
    frames = list(twelve.frames())
    assert [number_of(pixels) for pixels in frames] == [k // 2 for k in range(24)]
    assert frames[0] is frames[1]
    assert numbers(twelve, stride=5) == [k // 2 for k in range(0, 24, 5)]
    assert twelve.num_frames == 24


def test_time_begins_with_the_first_frame(tmp_path):
    late = write_video(tmp_path / "late.mkv", range(5000, 7000, 100), tick=Fraction(1, 1000), last=100)
    assert numbers(VideoFile(late), fps=10) == list(range(20))


def test_joined_files_go_on_in_time_and_keep_the_first_size(tmp_path):
    first = write_video(tmp_path / "first.ts", 60)
    second = write_video(tmp_path / "second.ts", 60, width=128, height=64)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    frames = list(VideoFile(joined).frames())
    assert {pixels.shape for pixels in frames} == {(HEIGHT, WIDTH, 3)}
    got = [number_of(pixels) for pixels in frames]
    assert got[:60] == list(range(60))
    assert got[-58:] == list(range(2, 60))
    assert 118 <= len(got) <= 122


# --- space ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 88])
def test_phone_videos_are_turned_upright(tmp_path, degrees, mirrored):
    path = write_video(tmp_path / "phone.mp4", 2, picture=corners, rotation=(degrees, *mirrored))
    upright = np.rot90(CORNERS, round(degrees / 90))
    upright = upright[:: -1 if mirrored[1] else 1, :: -1 if mirrored[0] else 1]
    pixels = next(VideoFile(path).frames())
    H, W = (WIDTH, HEIGHT) if degrees in (90, 270, 88) else (HEIGHT, WIDTH)
    assert pixels.shape == (H, W, 3)
    assert pixels.flags.c_contiguous
    seen = pixels[H // 4 :: H // 2, W // 4 :: W // 2]
    assert np.abs(seen.astype(int) - upright).max() < 12  # colours too


def test_pixels_are_made_square_before_turning(tmp_path):
    path = write_video(tmp_path / "wide.mp4", 2, aspect=Fraction(3, 2), rotation=(90,))
    assert next(VideoFile(path).frames()).shape == (96, 48, 3)
    assert next(VideoFile(path, size=48).frames()).shape == (48, 24, 3)


def test_a_size_larger_than_the_video_changes_nothing(tmp_path):
    path = write_video(tmp_path / "small.mp4", 2)
    for size in (64, 320, None):
        assert next(VideoFile(path, size=size).frames()).shape == (HEIGHT, WIDTH, 3)


@given(st.integers(1, 8000), st.integers(1, 8000), st.fractions(Fraction(1, 4), 4), st.integers(16, 2000))
def test_fitted_sizes(width, height, aspect, size):
    w, h = fitted(width, height, aspect, size)
    shown = width * aspect, height
    assert max(w, h) <= size
    assert max(w, h) == min(size, max(1, round(max(shown))))
    assert abs(w * shown[1] - h * shown[0]) <= (shown[0] + shown[1]) or min(w, h) == 1  # shape, to a pixel


# --- files that are not whole, or no videos ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".flv"])
def test_a_truncated_file_gives_what_there_is_and_says_so(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_video(tmp_path / f"v{suffix}", 240, options=options)
    os.truncate(path, path.stat().st_size * 6 // 10)
    video = VideoFile(path)
    got = numbers(video)
    assert 70 < len(got) < 160
    assert got[:-5] == list(range(len(got) - 5))
    assert "10.0 s: truncated" in video.problem


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_damaged_file_keeps_its_timing(tmp_path, suffix):
    path = write_video(tmp_path / f"v{suffix}", 240, codec="mpeg4" if suffix == ".mp4" else None)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 500] = random.Random(1).randbytes(500)
    path.write_bytes(data)
    video = VideoFile(path)
    got = numbers(video)
    assert 236 <= len(got) <= 240
    assert got[:50] == list(range(50))
    assert got[-20:-5] == list(range(len(got) - 20, len(got) - 5))
    assert "damaged" in video.problem


def test_a_timestamp_far_beyond_the_end_is_not_believed(tmp_path):
    """Else one damaged number would fill the disk with copies of one frame."""
    stamps = [*range(0, 1000, 100), *range(900_000, 901_000, 100)]
    path = write_video(tmp_path / "v.mkv", stamps, tick=Fraction(1, 1000), last=100)
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3  # Matroska's element "Duration", a double in milliseconds
    data[duration : duration + 8] = struct.pack(">d", 2000)
    path.write_bytes(data)
    got = numbers(VideoFile(path), fps=10)
    assert got[:10] == list(range(10))
    assert len(got) < 30


def unindexed(path):
    write_video(path, 24)
    os.truncate(path, path.stat().st_size // 2)


NOT_VIDEOS = {
    "absent.mp4": (lambda path: None, "cannot be read (No such file or directory); use an intact file"),
    "folder.mp4": (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    "empty.mp4": (lambda path: path.touch(), "cannot be read (Invalid data found"),
    "noise.mp4": (
        lambda path: path.write_bytes(random.Random(0).randbytes(4000)),
        "cannot be read (Invalid data found",
    ),
    "unindexed.mp4": (unindexed, "cannot be read (Invalid data found when processing input); use an intact file"),
    "text.txt": (lambda path: path.write_text("one\n" * 999), "not a video (FFmpeg reads it as tty)"),
    "picture.jpg": (lambda path: Image.new("RGB", (64, 64)).save(path), "not a video (FFmpeg reads it as jpeg_pipe)"),
    "sound.m4a": (write_sound, "contains no video"),
}


@pytest.mark.parametrize("name", NOT_VIDEOS)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, capfd):
    make, reason = NOT_VIDEOS[name]
    make(tmp_path / name)
    with pytest.raises(InputError) as error:
        VideoFile(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # FFmpeg says nothing beside it


def test_a_video_without_a_frame_that_decodes(tmp_path):
    path = write_video(tmp_path / "v.mkv", 1, codec="mpeg4")
    data = bytearray(path.read_bytes())
    start = data.index(b"\x00\x00\x01\xb6")  # the only picture's start code
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(InputError, match="no frame can be decoded"):
        list(VideoFile(path).frames())


def test_numbered_frames_are_read_back():
    assert [number_of(numbered(k)) for k in range(256)] == list(range(256))
