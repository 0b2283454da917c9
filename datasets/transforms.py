"""From decoded frames to the network's input, a whole clip at a time.

Training draws one crop and one mirror per clip; the test view is the centred square. Cropping makes views of the
decoded frames, which are resized some at a time (bilinear with antialiasing, as PIL) and stay uint8 until `normalise`,
which runs where the network runs. Until then they are (T,H,W,3); the network's (3,T,H,W) has the same memory, which
torch calls channels last: the resize has its fast path there, and the float clip is what convolutions like best.
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

# Shorter sides from which a crop of the given size is taken: a crop's side is size/short of the frame's shorter side.
SHORTER_SIDES = {160: (180, 225), 224: (256, 320), 312: (360, 450)}

CACHED_FRAMES = 8  # cropped, mirrored and resized together: few calls, and what lies in between stays in the cache


def crop_scales(size: int) -> tuple[float, float]:
    """The two crop scales of an input size; sizes without their own (not S, M or XL) scale as 224."""
    known = size if size in SHORTER_SIDES else 224
    near, far = SHORTER_SIDES[known]
    return known / near, known / far


class View(NamedTuple):
    """A square of the frame in pixels, and whether it is mirrored left to right."""

    left: int
    top: int
    side: int
    flip: bool


def augmented_view(rng: np.random.Generator, width: int, height: int, size: int) -> View:
    """The training view: one draw for all frames of a clip."""
    side = int(min(width, height) * rng.choice(crop_scales(size)))
    left = int(rng.random() * (width - side))
    top = int(rng.random() * (height - side))
    return View(left, top, side, flip=bool(rng.random() < 0.5))


def centred_view(width: int, height: int) -> View:
    """The centred square over the shorter side."""
    side = min(width, height)
    return View(round((width - side) / 2), round((height - side) / 2), side, flip=False)


def render(frames: Sequence[Tensor], view: View, size: int) -> Tensor:
    """Frames (H,W,3) uint8 of one size, seen through a view: clip (T,size,size,3) uint8."""
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
    """Squares (t,side,side,3) uint8 to (t,size,size,3), bilinear with antialiasing."""
    return interpolate(x.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _resize_by_pil(x: Tensor, size: int) -> Tensor:
    resized = [Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR) for frame in x.numpy()]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in resized]))


@cache
def _rounds_as_pil(side: int, size: int) -> bool:
    """Whether torch's resize, several times faster, equals PIL's for these sizes: tried on one noisy square.

    It does for Charades' frames. Where pixels fall exactly between two levels (64 to 224: one in 14), torch's 16-bit
    weights round otherwise than PIL's, which the published code and its features come from.
    """
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8))
    return torch.equal(_resize(x, size), _resize_by_pil(x, size))


def normalise(clip: Tensor, frames: Tensor | Sequence[int] | None = None, out: Tensor | None = None) -> Tensor:
    """(clip/255 - mean) / std in float32, padded frames exactly zero.

    Args:
        clip: (B,T,H,W,3) uint8.
        frames: (B,) valid frames of each clip, on the CPU; None where all T are.
        out: (B,T,H,W,3) float32, a buffer to write to: on a CPU, fresh memory for a clip costs more than the
            arithmetic.

    Returns:
        (B,3,T,H,W) float32 on the clip's device, a view of memory (B,T,H,W,3).
    """
    B, T, H, W, _ = clip.shape
    if out is None:
        out = torch.empty(clip.shape, device=clip.device)
    rows, result = clip.reshape(B, T, H, W * 3), out.view(B, T, H, W * 3)
    mean, std = torch.tensor(MEAN, device=clip.device), torch.tensor(STD, device=clip.device)
    # One multiply-add over whole rows: broadcasting over three channels costs as much as decoding.
    scale, shift = (1 / (255 * std)).repeat(W), (-mean / std).repeat(W)
    for b, t in enumerate([T] * B if frames is None else torch.as_tensor(frames).tolist()):
        valid = result[b, :t]
        torch.addcmul(shift, valid.copy_(rows[b, :t]), scale, out=valid)
        result[b, t:] = 0
    return out.permute(0, 4, 1, 2, 3)  # (B,3,T,H,W)
