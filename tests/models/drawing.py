"""Weights and inputs for the network tests, drawn from a seed.

A fresh network is a poor subject: its norms do nothing and its biases are small, so many a mistake would not
show. Here every tensor is drawn from its own generator, seeded with its official name, so the same weights
come out however the network is organised inside.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from models import CoarseNet, FineNet
from models.official import official_name
from models.x3d import VARIANTS

GRID = 7


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One tensor; the scales keep activations of order 1 through the whole network."""
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    match name.rpartition(".")[2]:
        case "running_mean" | "bias":
            return 0.1 * noise
        case "running_var":
            return np.exp(0.2 * noise)
    if len(shape) == 1:  # a norm's gain; small where the residual branch ends
        return (0.2 if ".bn3." in name else 1.0) * (1 + 0.1 * noise)
    classifies = name.startswith(("fc2.", "rw6.fc2.", "rw6.fc4."))
    return noise * np.sqrt((0.1 if classifies else 2.0) / np.prod(shape[1:]))


def set_weights(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """Every parameter and statistic of `net`, drawn by name."""
    state = net.state_dict()
    for name, tensor in state.items():
        tensor.copy_(torch.from_numpy(draw(official_name(name), tuple(tensor.shape), seed)))
    return net


def fine_net(*, seed: int = 0, dtype: torch.dtype = torch.float32, **options: object) -> FineNet:
    """A tiny Fine stream with drawn weights."""
    return set_weights(FineNet(**{"variant": "tiny", "num_classes": 5, **options}), seed=seed).to(dtype)


def coarse_net(*, seed: int = 0, dtype: torch.dtype = torch.float32, **options: object) -> CoarseNet:
    """A tiny Coarse stream with drawn weights."""
    return set_weights(CoarseNet(**{"variant": "tiny", "num_classes": 5, **options}), seed=seed).to(dtype)


def draw_clip(
    batch: int, frames: int, size: int | tuple[int, int] = 64, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Clip (B,3,T,H,W) whose brightness and contrast change over time."""
    height, width = (size, size) if isinstance(size, int) else size
    noise = np.random.default_rng([seed, 1]).standard_normal((batch, 3, frames, height, width))
    fade = np.sin(np.linspace(0, 3 * np.pi, frames)).reshape(-1, 1, 1)
    return torch.from_numpy(noise * (1 + 0.7 * fade) + fade).to(dtype)


def draw_fine(
    valid: list[int], *, variant: str = "tiny", seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], Tensor]:
    """Features {layer: (B,C,T',7,7)} that swing over time and mask (B,T'), for videos of so many fine frames."""
    rng, frames = np.random.default_rng([seed, 2]), max(valid)
    mask = (np.arange(frames) < np.array(valid)[:, None]).astype(float)
    features = {}
    for name, channels in VARIANTS[variant].feature_channels.items():
        shape = (len(valid), channels, 1, 1, 1)
        time = np.arange(frames).reshape(-1, 1, 1) / frames
        swing = 2 * np.sin(2 * np.pi * (rng.uniform(0.5, 2.5, shape) * time + rng.random(shape)))
        drawn = np.maximum(swing + rng.standard_normal((len(valid), channels, frames, GRID, GRID)), 0)
        features[name] = torch.from_numpy(drawn * mask[:, None, :, None, None]).to(dtype)
    return features, torch.from_numpy(mask).to(dtype)


def coarse_inputs(
    *,
    frames: int = 9,
    size: int | tuple[int, int] = 64,
    valid: list[int] | None = None,
    start: list[int] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Everything that CoarseNet's forward takes, for one clip of each video of `valid` fine frames."""
    valid = [13, 11] if valid is None else valid
    features, mask = draw_fine(valid, seed=seed, dtype=dtype)
    start = list(range(len(valid))) if start is None else start
    return draw_clip(len(valid), frames, size, seed=seed, dtype=dtype), features, mask, torch.tensor(start)
