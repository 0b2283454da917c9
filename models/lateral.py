"""Lateral connections, a baseline for fusion: fine features are concatenated to those of the Coarse stream.

Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019, section 3.4: after each stage, the fast
pathway's features, strided in time to the rate of the slow pathway, are concatenated to the slow features on channels.
Coarse-Fine Networks compares with this as SlowFast_det. Here, in the places of Multi-stage Fusion:

    align      F_j = mean of the valid fine frames f_t with |t - mu_j| <= 2, zero if there are none
    project    x_j <- conv([x_j, F_j])                                          1x1, back to the stage's width

Level l is only fused into stage l, without attention, scale and shift, and without logit fusion. Differences from
SlowFast: its time-strided convolution (5 frames at stride 4) is replaced by the mean over the same frames, and the
projection keeps the width of the next stage, hence its Kinetics weights. With stride pooling, this takes 53.8 G
multiply-adds at T = T' = 128 (tools.complexity); the paper's figure 1 shows 54.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.fusion import LEVELS, calibrate, resize

REACH = 2.0  # fine frames to each side of a coarse frame: SlowFast's kernel of 5


class LateralFusion(nn.Module):
    """Concatenates each level of the fine features to the Coarse stage of the same depth.

    Args:
        channels: width of each level, which is also that of the Coarse stage at the same depth.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Concatenation(c, c) for c in channels)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor, weights: Tensor) -> list[Tensor]:
        """Features {level: (B,C_l,T',7,7)} -> for each stage, its level aligned to the coarse frames (B,J,49,C_l)."""
        return [masked_mean(features[name], mask, weights) for name in LEVELS]

    def fuse(self, stage: int, x: Tensor, context: list[Tensor]) -> Tensor:
        """Fuse the output x (B,C,J,H,W) of a Coarse stage (0..3) with its level."""
        return self.lateral[stage](x, context[stage])


class Concatenation(nn.Module):
    """Concatenates x and a grid of features on channels and projects them to the width of x by a 1x1 convolution.

    The projection of a concatenation is the sum of the projections of its parts, so that of the grid is computed at
    7x7. Initially, x is unchanged, and the grid has PyTorch's default projection, to preserve the pretrained stages.
    """

    def __init__(self, cin: int, cgrid: int) -> None:
        super().__init__()
        self.own = nn.Linear(cin, cin, bias=False)
        self.grid = nn.Linear(cgrid, cin)
        nn.init.eye_(self.own.weight)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """x (B,C,J,H,W), grid (B,J,49,C_l) -> (B,C,J,H,W)."""
        return calibrate(self.own(x.movedim(1, -1)).movedim(-1, 1), self.grid(resize(grid, x.shape[3:])))


def masked_mean(features: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The mean of the valid fine frames with weight 1 for each coarse frame; zero if there are none.

    Args:
        features: (B,C,T',7,7).
        mask: (B,T'), 0 for padded features.
        weights: (B,T',J), 0 or 1.

    Returns:
        (B,J,49,C), in the dtype of the weights.
    """
    with torch.autocast(features.device.type, enabled=False):  # sums over time need float32
        weights = weights * mask.to(weights.dtype).unsqueeze(-1)  # (B,T',J)
        f = features.to(weights.dtype).flatten(3).permute(0, 2, 3, 1)  # (B,T',49,C)
        sums = torch.bmm(weights.transpose(1, 2), f.flatten(2)).unflatten(2, f.shape[2:])
        return sums / weights.sum(1).clamp(min=1).view(*sums.shape[:2], 1, 1)
