"""Temporal pooling of the Coarse stream: Grid Pool and its inverse, Grid Unpool.

Grid Pool (Coarse-Fine Networks, section 3.1) predicts a confidence for each region of the clip and samples
the clip accordingly, with small steps where the confidence is high. Grid Unpool (section 3.2) maps the
coarse logits back to evenly spaced frames by the inverse map.

Symbols: N regions, N = ceil(T/4); grid g (B,N+1), non-decreasing in [0,1], g_0 = 0, g_N = 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.norm import SubBatchNorm3d

RATIO = 4


def inverse_cdf(confidence_logits: Tensor) -> Tensor:
    """Sampling locations from the confidence of each region (section 3.1).

    Steps are proportional to 1 - p with p = sigmoid(z/2), so that confident regions are sampled densely.

    Args:
        confidence_logits: z (B,N).

    Returns:
        g (B,N+1) in [0,1], non-decreasing, in float32 or wider.
    """
    z = confidence_logits.to(torch.promote_types(confidence_logits.dtype, torch.float32))
    steps = torch.sigmoid(-z / 2)  # 1 - p, even if p rounds to 1
    steps = steps / (steps.sum(1, keepdim=True) + 1e-16)
    return F.pad(steps.cumsum(1), (1, 0))


def sample_frames(x: Tensor, locations: Tensor) -> Tensor:
    """Sample frames at fractional times by linear interpolation; differentiable in both arguments.

    Args:
        x: (B,C,T,*), any number of trailing dimensions.
        locations: (B,J), in frames, 0 to T-1.

    Returns:
        (B,C,J,*).
    """
    B, _, T = x.shape[:3]
    lower = locations.detach().floor().clamp(0, max(T - 2, 0))
    upper = (lower + 1).clamp(max=T - 1)
    fraction = locations - lower
    shape = (B, 1, -1) + (1,) * (x.dim() - 3)
    fraction = fraction.to(x.dtype).view(shape)

    def frames(index: Tensor) -> Tensor:
        batch = torch.arange(B, device=x.device).view(B, 1)
        return x.transpose(1, 2)[batch, index.long()].transpose(1, 2)  # (B,C,J,*)

    return torch.lerp(frames(lower), frames(upper), fraction)


def invert_grid(grid: Tensor) -> Tensor:
    """The inverse of the sampling map at evenly spaced times: the position of time k/N in the coarse frames.

    Args:
        grid: g (B,N+1).

    Returns:
        u (B,N+1) in [0,1]: the points (g_i, i/N), linearly interpolated at k/N.
    """
    B, J = grid.shape
    even = torch.linspace(0, 1, J, dtype=grid.dtype, device=grid.device)
    slopes = (even[1:] - even[:-1]) / (torch.finfo(grid.dtype).eps + grid[:, 1:] - grid[:, :-1])
    segment = torch.searchsorted(grid.detach().contiguous(), even.expand(B, J).contiguous()) - 1
    segment = segment.clamp(0, J - 2)
    u = even[segment] + slopes.gather(1, segment) * (even - grid.gather(1, segment))
    return u.clamp(0, 1)


def grid_unpool(logits: Tensor, grid: Tensor) -> Tensor:
    """Coarse logits (B,C,N+1) on the grid (B,N+1) -> evenly spaced logits (B,C,4N)."""
    regions = grid.shape[1] - 1
    even = sample_frames(logits, invert_grid(grid) * regions)
    return F.interpolate(even, size=RATIO * regions, mode="linear", align_corners=True)


class GridPool(nn.Module):
    """Learned temporal downsampling by 4: (B,C,T,H,W) -> (B,C,N+1,H,W) and the grid (B,N+1).

    Its norms always use a single group over all processes, so that the sampling locations in training do not depend
    on how the batch is divided.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, 2, 1)
        self.norm1 = SubBatchNorm3d(channels, synchronised=True)
        self.conv2 = nn.Conv3d(channels, channels, 3, 2, 1)
        self.norm2 = SubBatchNorm3d(channels, synchronised=True)
        self.conv3 = nn.Conv3d(channels, 1, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def confidence(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> confidence logits z (B,N) for N = ceil(T/4) regions."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.conv3(x).mean((1, 3, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = inverse_cdf(self.confidence(x))
        return sample_frames(x, grid * (x.shape[2] - 1)), grid


@contextmanager
def sampled_locations(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the sampling locations of Grid Pool, (B,N+1) in clip frames, for each forward pass within the context.

    The list stays empty for networks without Grid Pool.
    """
    locations: list[Tensor] = []

    def remember(pool: nn.Module, args: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        locations.append((output[1] * (args[0].shape[2] - 1)).cpu())

    pool = next((module for module in net.modules() if isinstance(module, GridPool)), None)
    with nullcontext() if pool is None else pool.register_forward_hook(remember):
        yield locations
