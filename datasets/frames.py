"""Count and decode the JPEG frames of videos.

Frame k (from 1) of a video is `<frames>/<id>/<id>-00000k.jpg`. A decoder converts a file to an RGB uint8 tensor
(H,W,3), the layout of clips until they are normalised. A missing, truncated or unreadable frame raises an `InputError`
with its file name; clips are never shortened.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.errors import InputError, one_line

Decoder = Callable[[Path], Tensor]
T = TypeVar("T")

SUFFIX = ".jpg"
SCAN_THREADS = 16  # listing folders is bound by disk or network, not by the processor
SCANNED_TOGETHER = 32  # videos per task of a thread
END_OF_IMAGE = b"\xff\xd9"
APP1 = 0xE1  # markers of JPEG segments
START_OF_FRAME = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
START_OF_SCAN = 0xDA


def frame_path(root: str | Path, video: str, number: int) -> Path:
    """Return the file of a frame; `number` counts from 1."""
    return Path(root, video, f"{video}-{number:06d}{SUFFIX}")


class Listing(NamedTuple):
    """Frames of a video by file name.

    Attributes:
        last: Highest frame number; without holes, the number of frames. 0 without a folder or frames.
        holes: Missing frames as (first, last) of each gap, in order.
        stray: The first file with the name of a frame but an invalid number, if any.
    """

    last: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    stray: str | None = None


def list_frames(root: str | Path, video: str) -> Listing:
    """List the frames in a video's folder by name, without opening files."""
    prefix = f"{video}-"
    try:
        names = [name for name in os.listdir(Path(root, video)) if name.startswith(prefix) and name.endswith(SUFFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    n = len(names)
    last = frame_path(root, video, n).name
    if n and max(names) == last and sum(map(len, names)) == n * len(last):
        return Listing(n)  # exactly frames 1..n, the usual case
    numbers, stray = [], None
    for name in sorted(names):
        digits = name[len(prefix) : -len(SUFFIX)]
        number = int(digits) if re.fullmatch(r"[0-9]+", digits) else 0
        if number and frame_path(root, video, number).name == name:
            numbers.append(number)
        else:
            stray = stray or name
    highest = max(numbers, default=0)
    edges = pairwise([0, *sorted(numbers), max(highest, n) + 1])
    return Listing(highest, tuple((before + 1, after - 1) for before, after in edges if after > before + 1), stray)


def usable_frames(root: str | Path, video: str, listing: Listing, *, allow_gaps: bool = False) -> int:
    """Return the number of frames of a listed folder.

    Missing frames raise an error, here or, with `allow_gaps`, only when they are read.
    """
    if not listing.holes or (allow_gaps and listing.last):
        return listing.last
    path = frame_path(root, video, listing.holes[0][0])
    if listing.stray:
        raise InputError(f"{path}: missing frame (rename {listing.stray}: frame numbers have six digits, from 000001)")
    last = frame_path(root, video, listing.last).name
    raise InputError(f"{path}: missing frame (the last frame is {last}); extract the video's frames again")


def count_frames(root: str | Path, video: str) -> int:
    """Return the number of frames in a video's folder, 0 without the folder. See `usable_frames`."""
    return usable_frames(root, video, list_frames(root, video))


def look_into_folders(root: str | Path, videos: Iterable[str], look: Callable[[Path, str], T]) -> dict[str, T]:
    """Call `look(root, video)` for every video in parallel; return the results in the given order."""
    root, videos = Path(root), list(videos)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.frames to the folder that contains <id>/<id>-000001.jpg")
    shares = [videos[first : first + SCANNED_TOGETHER] for first in range(0, len(videos), SCANNED_TOGETHER)]
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        looked = pool.map(lambda share: [look(root, video) for video in share], shares)
        return dict(zip(videos, chain.from_iterable(looked), strict=True))


def count_all_frames(root: str | Path, videos: Iterable[str]) -> dict[str, int]:
    """Return the number of frames of every video in the given order; see `count_frames`."""
    listings = look_into_folders(root, videos, list_frames)
    return {video: usable_frames(root, video, listing) for video, listing in listings.items()}


def get_decoder(backend: str = "auto") -> Decoder:
    """Return a function that decodes a JPEG file to an upright RGB uint8 tensor (H,W,3).

    All backends give exactly the pixels of PIL and reject the same files.

    Args:
        backend: One of `BACKENDS`, or "auto" for the fastest installed one.
    """
    if backend == "auto":
        backend = next(name for name in BACKENDS if name != "accimage" and _is_installed(name))
    if backend not in BACKENDS:
        raise InputError(f"--data.image_backend {backend}: choose one of auto, {', '.join(BACKENDS)}")
    if not _is_installed(backend):
        how = "conda install -c conda-forge accimage" if backend == "accimage" else f"pip install {backend}"
        raise InputError(f"--data.image_backend {backend}: not installed; run `{how}` or use auto")
    return partial(_decode, BACKENDS[backend])


def read_frames(root: str | Path, video: str, numbers: Iterable[int], decode: Decoder) -> Iterator[Tensor]:
    """Decode frames (H,W,3) of a video one at a time, all of one size; `numbers` count from 1."""
    first = None
    for number in numbers:
        path = frame_path(root, video, number)
        frame = decode(path)
        first = frame.shape if first is None else first
        if frame.shape != first:
            (h, w), (h0, w0) = frame.shape[:2], first[:2]
            raise InputError(f"{path}: {w}x{h} pixels, but the other frames have {w0}x{h0}; extract the frames again")
        yield frame


def _is_installed(backend: str) -> bool:
    try:
        import_module({"pil": "PIL", "torchcodec": "torchcodec.decoders"}.get(backend, backend))
    except (ImportError, OSError, RuntimeError):  # torchcodec that does not match the installed torch
        return False
    return True


def _decode(fast: Callable[[Path, bytes], Tensor] | None, path: Path) -> Tensor:
    """Decode plain files with the fast decoder, and all others, or those that it rejects, with PIL."""
    try:
        data = path.read_bytes()
        if fast is not None and _is_plain(data):
            with suppress(OSError, RuntimeError, ValueError):
                return fast(path, data)
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            image.load()
            with suppress(Exception):  # ignore unreadable EXIF, which raises many kinds of errors
                ImageOps.exif_transpose(image, in_place=True)
            return torch.from_numpy(np.array(image.convert("RGB")))
    except FileNotFoundError:
        raise InputError(f"{path}: missing frame; extract the video's frames again") from None
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: broken headers in PIL
        reason = "not a JPEG file" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise InputError(f"{path}: unreadable frame ({reason}); extract the video's frames again") from None


def _is_plain(data: bytes) -> bool:
    """Return whether a JPEG file has 1 or 3 channels and no segment that may rotate it (APP1: EXIF, XMP).

    Takes a few microseconds: only the segments before the pixels are read (0xFF, a marker, a 2-byte length).
    """
    at, channels = 2, 0
    while len(data) > at + 9 and data[at] == 0xFF and data[at + 1] != APP1:
        if data[at + 1] in START_OF_FRAME:
            channels = data[at + 9]
        elif data[at + 1] == START_OF_SCAN:
            return channels in (1, 3)  # other decoders convert 4 channels differently from PIL
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def _decode_simplejpeg(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo; also rejects repairable files."""
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(data))


def _decode_torchcodec(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo; would apply EXIF orientation, but gets no such files."""
    from torchcodec.decoders import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0)  # memory layout (H,W,3)


def _decode_torchvision(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo, the same code as in torchcodec; deprecated in torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return pixels.permute(1, 2, 0)


def _decode_accimage(path: Path, data: bytes) -> Tensor:
    """Planes (3,H,W), also for grey files; only warns about truncated files and fills the rest with grey."""
    from accimage import Image as PlanarImage

    if not data.endswith(END_OF_IMAGE):
        raise ValueError("truncated, or followed by something else")
    image = PlanarImage(str(path))
    planes = np.empty((3, image.height, image.width), np.uint8)
    image.copyto(planes)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 2, 0)))


# In the order of "auto". A 320x240 frame takes 0.21, 0.27, 0.26 (torchvision, deprecated) and 0.38 ms (PIL). accimage,
# which pip cannot install, was not measured.
BACKENDS: dict[str, Callable[[Path, bytes], Tensor] | None] = {
    "simplejpeg": _decode_simplejpeg,
    "torchcodec": _decode_torchcodec,
    "torchvision": _decode_torchvision,
    "accimage": _decode_accimage,
    "pil": None,
}
