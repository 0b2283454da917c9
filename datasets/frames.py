"""Videos as folders of JPEG frames: counting and decoding.

Frame k (from 1) of a video is `<frames>/<id>/<id>-00000k.jpg`. A decoder turns one such file into a uint8 tensor
(H,W,3) of RGB, the layout in which clips stay until they are normalised. A frame that is missing, truncated or
unreadable is an `InputError` that names its file, never a shorter clip.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, repeat
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from common.errors import InputError

Decoder = Callable[[Path], Tensor]
T = TypeVar("T")

SUFFIX = ".jpg"
SCAN_THREADS = 16  # listing folders waits for the disk or the network, not for the processor
END_OF_IMAGE = b"\xff\xd9"


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
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        return dict(zip(videos, pool.map(look, repeat(root), videos), strict=False))


def count_all_frames(root: str | Path, videos: Iterable[str]) -> dict[str, int]:
    """Number of frames of every video (0 without a folder), in the given order; see `count_frames`."""
    listings = look_into_folders(root, videos, list_frames)
    return {video: usable_frames(root, video, listing) for video, listing in listings.items()}


def get_decoder(backend: str = "auto") -> Decoder:
    """The function that decodes one JPEG file into a uint8 tensor (H,W,3) of RGB.

    Args:
        backend: "torchvision" (also "auto": fastest of what pip installs), "accimage" or "pil".
    """
    if backend not in BACKENDS:
        raise InputError(f"--data.image_backend {backend}: choose one of {', '.join(BACKENDS)}")
    if backend == "accimage":
        _import_accimage()
    return BACKENDS[backend]


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


def _unreadable(path: Path, reason: object) -> InputError:
    if isinstance(reason, FileNotFoundError):
        return InputError(f"{path}: missing frame; extract the video's frames again")
    text = re.sub(r"^(\w+, )?\S+\.cpp:\d+, ", "", " ".join(str(reason).split()))  # torchvision's place in its sources
    return InputError(f"{path}: unreadable frame ({text}); extract the video's frames again")


def _decode_torchvision(path: Path) -> Tensor:
    """libjpeg-turbo without detours; raises on every truncation."""
    try:
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        return decode_jpeg(data, mode=ImageReadMode.RGB).permute(1, 2, 0)  # its memory is (H,W,3)
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: an empty file
        raise _unreadable(path, error) from None


def _decode_pil(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: PIL's broken headers
        raise _unreadable(path, error) from None


def _decode_accimage(path: Path) -> Tensor:
    """accimage for whole colour files; anything else goes to the strict decoder.

    A decoder that reads through libjpeg's own sources fills a truncated image with grey and only warns.
    """
    accimage = _import_accimage()
    try:
        with path.open("rb") as file:
            file.seek(-len(END_OF_IMAGE), os.SEEK_END)
            whole = file.read() == END_OF_IMAGE
        if whole:
            image = accimage.Image(str(path))
            if image.channels == 3:
                pixels = np.empty((image.height, image.width, 3), np.uint8)
                image.copyto(pixels)
                return torch.from_numpy(pixels)
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return _decode_torchvision(path)


def _import_accimage() -> ModuleType:
    """accimage comes from conda-forge or its source, so it is looked for only where it is asked for."""
    try:
        import accimage
    except ImportError:
        raise InputError(
            "--data.image_backend accimage: not installed; `conda install -c conda-forge accimage`, or use auto"
        ) from None
    return accimage


BACKENDS: dict[str, Decoder] = {
    "auto": _decode_torchvision,
    "torchvision": _decode_torchvision,
    "accimage": _decode_accimage,
    "pil": _decode_pil,
}
