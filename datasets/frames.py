"""Videos as folders of JPEG frames: counting and decoding.

Frame k (from 1) of a video is `<frames>/<id>/<id>-00000k.jpg`. A decoder turns one such file into a uint8 tensor
(3,H,W) whose memory is (H,W,3), the layout that decoders write and that the whole clip keeps up to the network. A
frame that is missing, truncated or unreadable is an `InputError` that names its file, never a shorter clip.
"""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from eval.errors import InputError

Decoder = Callable[[Path], Tensor]

SUFFIX = ".jpg"
SCAN_THREADS = 16  # listing folders waits for the disk or the network, not for the processor
END_OF_IMAGE = b"\xff\xd9"


def frame_path(root: str | Path, video: str, number: int) -> Path:
    """The file of a video's frame; `number` counts from 1."""
    return Path(root, video, f"{video}-{number:06d}{SUFFIX}")


def count_frames(root: str | Path, video: str, *, allow_gaps: bool = False) -> int:
    """Number of frame files in the video's folder; 0 without the folder.

    Names are listed, no file is touched. A gap in the numbering is a missing frame, hence an error; or it is counted
    (`allow_gaps`), and an error for who reads it.
    """
    prefix = f"{video}-"
    try:
        names = [name for name in os.listdir(Path(root, video)) if name.startswith(prefix) and name.endswith(SUFFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    n = len(names)
    if n and max(names) != frame_path(root, video, n).name:
        last = re.fullmatch(r"(\d{6})", max(names)[len(prefix) : -len(SUFFIX)])
        if allow_gaps and last:
            return int(last[1])
        _raise_gap(root, video, names)
    return n


def count_all_frames(root: str | Path, videos: Iterable[str], *, allow_gaps: bool = False) -> dict[str, int]:
    """Number of frames of every video (0 without a folder), in the given order; see `count_frames`."""
    root, videos = Path(root), list(videos)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --data.frames to the folder that holds <id>/<id>-000001.jpg")
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        counts = pool.map(lambda video: count_frames(root, video, allow_gaps=allow_gaps), videos)
        return dict(zip(videos, counts, strict=True))


def _raise_gap(root: str | Path, video: str, names: list[str]) -> None:
    present = set(names)
    for number in range(1, len(names) + 1):
        path = frame_path(root, video, number)
        if path.name not in present:
            raise InputError(f"{path}: missing frame (others go up to {max(names)}); extract the video's frames again")
    raise InputError(f"{Path(root, video, max(names))}: frames are numbered from 000001 with six digits; rename them")


def get_decoder(backend: str = "auto") -> Decoder:
    """The function that decodes one JPEG file into a uint8 tensor (3,H,W) of RGB.

    Args:
        backend: "torchvision" (also "auto": fastest of what pip installs), "accimage" or "pil".
    """
    if backend not in BACKENDS:
        raise InputError(f"--data.image_backend {backend}: choose one of {', '.join(BACKENDS)}")
    if backend == "accimage":
        _import_accimage()
    return BACKENDS[backend]


def read_frames(root: str | Path, video: str, numbers: Iterable[int], decode: Decoder) -> list[Tensor]:
    """Decoded frames (3,H,W) of a video, all of one size; `numbers` count from 1."""
    frames = []
    for number in numbers:
        path = frame_path(root, video, number)
        frame = decode(path)
        if frames and frame.shape != frames[0].shape:
            (h, w), (h0, w0) = frame.shape[1:], frames[0].shape[1:]
            raise InputError(f"{path}: {w}x{h} pixels where the video has {w0}x{h0}; extract its frames again")
        frames.append(frame)
    return frames


def _unreadable(path: Path, reason: object) -> InputError:
    if isinstance(reason, FileNotFoundError):
        return InputError(f"{path}: missing frame; extract the video's frames again")
    text = re.sub(r"^(\w+, )?\S+\.cpp:\d+, ", "", " ".join(str(reason).split()))  # torchvision's place in its sources
    return InputError(f"{path}: unreadable frame ({text}); extract the video's frames again")


def _decode_torchvision(path: Path) -> Tensor:
    """libjpeg-turbo without detours; raises on every truncation."""
    try:
        data = path.read_bytes()
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: an empty file
        raise _unreadable(path, error) from None


def _decode_pil(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
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
                return torch.from_numpy(pixels).permute(2, 0, 1)
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return _decode_torchvision(path)


def _import_accimage():
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
