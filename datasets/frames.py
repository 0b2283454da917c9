"""Videos as folders of JPEG frames: counting and decoding.

Frame k (from 1) of a video is `<frames>/<id>/<id>-00000k.jpg`. A decoder turns one such file into a uint8 tensor
(H,W,3) of RGB, the layout in which clips stay until they are normalised. A frame that is missing, truncated or
unreadable is an `InputError` that names its file, never a shorter clip.
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
SCAN_THREADS = 16  # listing folders waits for the disk or the network, not for the processor
SCANNED_TOGETHER = 32  # videos that a thread takes at a time
END_OF_IMAGE = b"\xff\xd9"
APP1 = 0xE1  # markers of a JPEG file's segments
START_OF_FRAME = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
START_OF_SCAN = 0xDA


def frame_path(root: str | Path, video: str, number: int) -> Path:
    """The file of a video's frame; `number` counts from 1."""
    return Path(root, video, f"{video}-{number:06d}{SUFFIX}")


class Listing(NamedTuple):
    """What the names in a video's folder say of its frames.

    Attributes:
        last: The highest number of a frame; without holes, the number of frames. 0 without a folder or frames.
        holes: Missing frames as (first, last) of each row of them, in order.
        stray: A file that is named like a frame but not numbered like one, if there is any.
    """

    last: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    stray: str | None = None


def list_frames(root: str | Path, video: str) -> Listing:
    """The frames in a video's folder. Names are listed, no file is touched."""
    prefix = f"{video}-"
    try:
        names = [name for name in os.listdir(Path(root, video)) if name.startswith(prefix) and name.endswith(SUFFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    n = len(names)
    last = frame_path(root, video, n).name
    if n and max(names) == last and sum(map(len, names)) == n * len(last):
        return Listing(n)  # just frames 1..n, as nearly always
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
    """Number of frames of a listed folder.

    A hole is a missing frame, hence an error; or it is counted (`allow_gaps`), and an error for who reads it.
    """
    if not listing.holes or (allow_gaps and listing.last):
        return listing.last
    path = frame_path(root, video, listing.holes[0][0])
    if listing.stray:
        raise InputError(f"{path}: missing frame (rename {listing.stray}: frames are numbered from 000001, six digits)")
    others = frame_path(root, video, listing.last).name
    raise InputError(f"{path}: missing frame (others go up to {others}); extract the video's frames again")


def count_frames(root: str | Path, video: str) -> int:
    """Number of frame files in the video's folder; 0 without the folder. See `usable_frames`."""
    return usable_frames(root, video, list_frames(root, video))


def look_into_folders(root: str | Path, videos: Iterable[str], look: Callable[[Path, str], T]) -> dict[str, T]:
    """What `look` says of every video's folder, given the root and the video, in the given order."""
    root, videos = Path(root), list(videos)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.frames to the folder that holds <id>/<id>-000001.jpg")
    shares = [videos[first : first + SCANNED_TOGETHER] for first in range(0, len(videos), SCANNED_TOGETHER)]
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        looked = pool.map(lambda share: [look(root, video) for video in share], shares)
        return dict(zip(videos, chain.from_iterable(looked), strict=True))


def count_all_frames(root: str | Path, videos: Iterable[str]) -> dict[str, int]:
    """Number of frames of every video (0 without a folder), in the given order; see `count_frames`."""
    listings = look_into_folders(root, videos, list_frames)
    return {video: usable_frames(root, video, listing) for video, listing in listings.items()}


def get_decoder(backend: str = "auto") -> Decoder:
    """The function that decodes one JPEG file into a uint8 tensor (H,W,3) of RGB, upright as a viewer shows it.

    Whatever the backend, the pixels are PIL's to the last bit, and so is what is refused.

    Args:
        backend: One of `BACKENDS`, or "auto": the fastest that is installed.
    """
    if backend == "auto":
        backend = next(name for name in BACKENDS if name != "accimage" and _is_installed(name))
    if backend not in BACKENDS:
        raise InputError(f"--data.image_backend {backend}: choose one of auto, {', '.join(BACKENDS)}")
    if not _is_installed(backend):
        how = "conda install -c conda-forge accimage" if backend == "accimage" else f"pip install {backend}"
        raise InputError(f"--data.image_backend {backend}: not installed; `{how}`, or use auto")
    return partial(_decode, BACKENDS[backend])


def read_frames(root: str | Path, video: str, numbers: Iterable[int], decode: Decoder) -> Iterator[Tensor]:
    """Decodes frames (H,W,3) of a video, all of one size, one at a time; `numbers` count from 1."""
    first = None
    for number in numbers:
        path = frame_path(root, video, number)
        frame = decode(path)
        first = frame.shape if first is None else first
        if frame.shape != first:
            (h, w), (h0, w0) = frame.shape[:2], first[:2]
            raise InputError(f"{path}: {w}x{h} pixels where the video has {w0}x{h0}; extract its frames again")
        yield frame


def _is_installed(backend: str) -> bool:
    try:
        import_module({"pil": "PIL", "torchcodec": "torchcodec.decoders"}.get(backend, backend))
    except (ImportError, OSError, RuntimeError):  # torchcodec's, where it does not fit the installed torch
        return False
    return True


def _decode(fast: Callable[[Path, bytes], Tensor] | None, path: Path) -> Tensor:
    """A plain file by the fast decoder. Whatever is not plain, or is refused by it, is PIL's to decode or to refuse."""
    try:
        data = path.read_bytes()
        if fast is not None and _is_plain(data):
            with suppress(OSError, RuntimeError, ValueError):
                return fast(path, data)
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            image.load()
            with suppress(Exception):  # EXIF that cannot be read, in any of many ways, turns nothing
                ImageOps.exif_transpose(image, in_place=True)
            return torch.from_numpy(np.array(image.convert("RGB")))
    except FileNotFoundError:
        raise InputError(f"{path}: missing frame; extract the video's frames again") from None
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: PIL's broken headers
        reason = "not a JPEG file" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise InputError(f"{path}: unreadable frame ({reason}); extract the video's frames again") from None


def _is_plain(data: bytes) -> bool:
    """Whether a JPEG file is grey or of three channels, and has no segment that may turn it (APP1: EXIF, XMP).

    A look at the segments before its pixels, a few microseconds (each: 0xFF, a marker, a length in 2 bytes).
    """
    at, channels = 2, 0
    while len(data) > at + 9 and data[at] == 0xFF and data[at + 1] != APP1:
        if data[at + 1] in START_OF_FRAME:
            channels = data[at + 9]
        elif data[at + 1] == START_OF_SCAN:
            return channels in (1, 3)  # of four, decoders make another RGB than PIL
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def _decode_simplejpeg(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo; refuses also what could be repaired."""
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(data))


def _decode_torchcodec(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo; would turn by EXIF itself, but is given no such file."""
    from torchcodec.decoders import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0)  # its memory is (H,W,3)


def _decode_torchvision(path: Path, data: bytes) -> Tensor:
    """libjpeg-turbo, the same code as torchcodec's; deprecated there."""
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return pixels.permute(1, 2, 0)


def _decode_accimage(path: Path, data: bytes) -> Tensor:
    """Fills planes (3,H,W), of grey files too; only warns of a truncated file, and shows grey where it ends."""
    from accimage import Image as PlanarImage

    if not data.endswith(END_OF_IMAGE):
        raise ValueError("truncated, or followed by something else")
    image = PlanarImage(str(path))
    planes = np.empty((3, image.height, image.width), np.uint8)
    image.copyto(planes)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 2, 0)))


# As "auto" tries them. A frame of 320x240 takes 0.21, 0.27, 0.26 (torchvision, deprecated) and 0.38 ms (PIL); accimage,
# which pip does not install, was not measured.
BACKENDS: dict[str, Callable[[Path, bytes], Tensor] | None] = {
    "simplejpeg": _decode_simplejpeg,
    "torchcodec": _decode_torchcodec,
    "torchvision": _decode_torchvision,
    "accimage": _decode_accimage,
    "pil": None,
}
