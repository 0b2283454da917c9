"""Multi-stage Fusion: features of the Fine stream scale and shift those of the Coarse stream.

Coarse-Fine Networks, section 3.3. For each level l of the Fine stream, on its 7x7 grid:

    attention   a(t) = sigmoid(conv(relu(conv(f_t))))                        filters the features
    align       F_j = sum_t f_t a(t) w(t,j) m_t / (sum_t a(t) w(t,j) m_t + 1e-6)     m: feature mask
    calibrate   shift_l = network(F), scale_l = network(F)

The shifts of all levels are concatenated and mixed by a 1x1 conv into the shift of a Coarse stage. Their scales are
mixed by another 1x1 conv, followed by a sigmoid, into its scale. Then x <- x * scale + shift.

Everything up to the mixing is computed on the 7x7 grid, with the sum over t as a batched matrix product. The layout
in this file is (B, coarse frames J, positions P = 49, channels), so that every 1x1 conv is a Linear.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 7
LEVELS = ("layer1", "layer2", "layer3", "layer4")
LOGIT_LEVEL = "conv5"


def two_layers(cin: int, cout: int, *, dropout: float | None = None) -> nn.Sequential:
    """A hidden layer as wide as the input, ReLU, dropout (only for logit fusion), and a linear output."""
    drop = nn.Identity() if dropout is None else nn.Dropout(dropout)
    return nn.Sequential(nn.Linear(cin, cin), nn.ReLU(), drop, nn.Linear(cin, cout))


class AlignedLevel(nn.Module):
    """Filters one level of the fine features, aligns it to the coarse frames, and computes shift and scale."""

    def __init__(self, channels: int, cout: int, *, dropout: float | None = None) -> None:
        super().__init__()
        self.attention = two_layers(channels, 1)
        self.shift = two_layers(channels, cout, dropout=dropout)
        self.scale = two_layers(channels, cout, dropout=dropout)

    def align(self, features: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """Align fine features to the coarse frames.

        Args:
            features: f (B,C,T',7,7).
            mask: m (B,T'), 0 for padded features.
            weights: Gaussian weights w (B,T',J).

        Returns:
            (B,J,49,C).
        """
        f = features.to(weights.dtype).flatten(3).permute(0, 2, 3, 1).contiguous()  # (B,T',49,C)
        attention = torch.sigmoid(self.attention(f).squeeze(-1))  # (B,T',49)
        with torch.autocast(f.device.type, enabled=False):  # sums over time need float32
            attention = attention.to(weights.dtype) * mask.to(weights.dtype).unsqueeze(-1)
            weighted = (f * attention.unsqueeze(-1)).flatten(2)  # (B,T',49*C)
            to_coarse = weights.transpose(1, 2)  # (B,J,T')
            numerator = torch.bmm(to_coarse, weighted).unflatten(2, f.shape[2:])
            denominator = torch.bmm(to_coarse, attention).unsqueeze(-1)
            return numerator / (denominator + 1e-6)

    def forward(self, features: Tensor, mask: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale (B,J,49,cout) of the aligned features, see `align`; the scale is before the sigmoid."""
        aligned = self.align(features, mask, weights)
        return self.shift(aligned), self.scale(aligned)


class StageMix(nn.Module):
    """Mixes the shifts and scales of all levels into those of one Coarse stage, at the size of that stage.

    With `per_stage`, those of a single level are used unchanged.
    """

    def __init__(self, cin: int, cout: int, *, per_stage: bool) -> None:
        super().__init__()
        self.shift = nn.Identity() if per_stage else nn.Linear(cin, cout)
        self.scale = nn.Identity() if per_stage else nn.Linear(cin, cout)

    def forward(self, shift: Tensor, scale: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B,J,49,cin) twice -> (B,J,h,w,cout) twice; h = w = 7 if the size is a multiple of 7."""
        return self.shift(resize(shift, size)), torch.sigmoid(self.scale(resize(scale, size)))


def resize(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the 7x7 grid (B,J,49,C) to a stage's size by adaptive max pooling: (B,J,h,w,C).

    If h and w are multiples of 7, this is plain repetition, which commutes with all operations per position. The grid
    then stays at 7x7, and `calibrate` repeats it.
    """
    B, J = grid.shape[:2]
    grid = grid.unflatten(2, (GRID, GRID))
    h, w = size
    if h % GRID == 0 and w % GRID == 0:
        return grid
    pooled = F.adaptive_max_pool2d(grid.flatten(0, 1).permute(0, 3, 1, 2), (h, w))
    return pooled.permute(0, 2, 3, 1).unflatten(0, (B, J))


def calibrate(x: Tensor, shift: Tensor, scale: Tensor | None = None) -> Tensor:
    """x * scale + shift, or x + shift: x is (B,C,J,H,W), the others are (B,J,h,w,C), and h, w divide H, W."""
    H, W = x.shape[3:]
    h, w = shift.shape[2:4]
    cells = x.unflatten(4, (w, W // w)).unflatten(3, (h, H // h))  # (B,C,J,h,H/h,w,W/w)
    if scale is not None:
        cells = cells * _of_cells(scale, x)
    return (cells + _of_cells(shift, x)).reshape(x.shape)


def _of_cells(grid: Tensor, x: Tensor) -> Tensor:
    """(B,J,h,w,C) as (B,C,J,h,1,w,1), in the dtype of x."""
    return grid.to(x.dtype).permute(0, 4, 1, 2, 3)[..., None, :, None]


class FeatureFusion(nn.Module):
    """Computes shift and scale for every Coarse stage from the four feature levels.

    Args:
        channels: width of each level, which is also that of the Coarse stage at the same depth.
        per_stage: fuse each level only into its own stage, instead of all levels into every stage.
    """

    def __init__(self, channels: Sequence[int], *, per_stage: bool = False) -> None:
        super().__init__()
        self.per_stage = per_stage
        self.levels = nn.ModuleDict({name: AlignedLevel(c, c) for name, c in zip(LEVELS, channels, strict=True)})
        self.stages = nn.ModuleList(StageMix(sum(channels), c, per_stage=per_stage) for c in channels)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features {level: (B,C_l,T',7,7)} -> for each stage, the shift and scale (B,J,49,C) to mix."""
        pairs = [level(features[name], mask, weights) for name, level in self.levels.items()]
        if self.per_stage:
            return pairs
        shift, scale = (torch.cat(parts, -1) for parts in zip(*pairs, strict=True))
        return [(shift, scale)] * len(pairs)

    def fuse(self, stage: int, x: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Calibrate the output x (B,C,J,H,W) of a Coarse stage (0..3)."""
        return calibrate(x, *self.stages[stage](*context[stage], x.shape[3:]))


class LogitFusion(AlignedLevel):
    """Scales and shifts the class logits by the last level (conv5), averaged over space."""

    def fuse(self, logits: Tensor, features: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """Logits (B,classes,J), features (B,C,T',7,7) -> (B,classes,J)."""
        aligned = self.align(features, mask, weights).mean(2)  # (B,J,C)
        shift, scale = self.shift(aligned), self.scale(aligned)  # (B,J,classes)
        return logits * torch.sigmoid(scale).transpose(1, 2) + shift.transpose(1, 2)
