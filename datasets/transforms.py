"""Transform decoded frames to the network's input, one clip at a time.

Training uses one random crop and flip per clip; the test view is the centre square. Frames are cropped as views,
resized in groups (bilinear with antialiasing, as in PIL) and kept as uint8 (T,H,W,3) until `normalise`, which runs on
the network's device. The network's (3,T,H,W) shares this memory layout (channels last in PyTorch), for which resizing
and convolutions are fastest.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = (0.413, 0.368, 0.338)
STD = (0.131, 0.125, 0.132)

# {size: nominal shorter sides of a frame}: a crop of `size` covers size/short of the frame's shorter side.
SHORTER_SIDES = {160: (180, 225), 224: (256, 320), 312: (360, 450)}

CACHED_FRAMES = 8  # frames per group: few calls, with intermediate results in the cache


def crop_scales(size: int) -> tuple[float, float]:
    """Return the two crop scales of an input size; sizes other than those of S, M and XL use the scales of 224."""
    known = size if size in SHORTER_SIDES else 224
    near, far = SHORTER_SIDES[known]
    return known / near, known / far


class View(NamedTuple):
    """A square of the frame in pixels, optionally flipped horizontally."""

    left: int
    top: int
    side: int
    flip: bool


def augmented_view(rng: np.random.Generator, width: int, height: int, size: int) -> View:
    """Draw a training view, shared by all frames of a clip."""
    side = int(min(width, height) * rng.choice(crop_scales(size)))
    left = int(rng.random() * (width - side))
    top = int(rng.random() * (height - side))
    return View(left, top, side, flip=bool(rng.random() < 0.5))


def centred_view(width: int, height: int) -> View:
    """Return the centre square of the shorter side."""
    side = min(width, height)
    return View(round((width - side) / 2), round((height - side) / 2), side, flip=False)


def render(frames: Sequence[Tensor], view: View, size: int) -> Tensor:
    """Crop, flip and resize frames (H,W,3) uint8 of one size to a clip (T,size,size,3) uint8."""
    rows, columns = slice(view.top, view.top + view.side), slice(view.left, view.left + view.side)
    clip = torch.empty((len(frames), size, size, 3), dtype=torch.uint8)
    resize = _resize if _rounds_as_pil(view.side, size) else _resize_by_pil
    for first in range(0, len(frames), CACHED_FRAMES):
        some = slice(first, first + CACHED_FRAMES)
        x = torch.stack([frame[rows, columns] for frame in frames[some]])  # (t,side,side,3)
        if view.flip:
            x = x.flip(2)
        clip[some] = x if view.side == size else resize(x, size)
    return clip


def _resize(x: Tensor, size: int) -> Tensor:
    """Resize (t,side,side,3) uint8 to (t,size,size,3), bilinear with antialiasing."""
    return interpolate(x.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _resize_by_pil(x: Tensor, size: int) -> Tensor:
    resized = [Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR) for frame in x.numpy()]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in resized]))


@cache
def _rounds_as_pil(side: int, size: int) -> bool:
    """Return whether torch's resize, several times faster, equals PIL's for these sizes, tested on a noise image.

    It does for Charades' frames. For values exactly between two levels (64 to 224: one in 14), torch's 16-bit weights
    round differently from PIL, which the published code and features use.
    """
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8))
    return torch.equal(_resize(x, size), _resize_by_pil(x, size))


def normalise(clip: Tensor, frames: Tensor | Sequence[int] | None = None, out: Tensor | None = None) -> Tensor:
    """Compute (clip/255 - mean) / std in float32, with padded frames exactly zero.

    Args:
        clip: (B,T,H,W,3) uint8.
        frames: (B,) valid frames of each clip, on the CPU; None if all T are valid.
        out: (B,T,H,W,3) float32 output buffer: on a CPU, allocating a clip takes longer than the arithmetic.

    Returns:
        (B,3,T,H,W) float32 on the clip's device, a view of memory (B,T,H,W,3).
    """
    B, T, H, W, _ = clip.shape
    if out is None:
        out = torch.empty(clip.shape, device=clip.device)
    rows, result = clip.reshape(B, T, H, W * 3), out.view(B, T, H, W * 3)
    mean, std = torch.tensor(MEAN, device=clip.device), torch.tensor(STD, device=clip.device)
    # One multiply-add over whole rows: broadcasting over three channels takes as long as decoding.
    scale, shift = (1 / (255 * std)).repeat(W), (-mean / std).repeat(W)
    for b, t in enumerate([T] * B if frames is None else torch.as_tensor(frames).tolist()):
        valid = result[b, :t]
        torch.addcmul(shift, valid.copy_(rows[b, :t]), scale, out=valid)
        result[b, t:] = 0
    return out.permute(0, 4, 1, 2, 3)  # (B,3,T,H,W)
