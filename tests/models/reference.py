"""The networks written a second time: slowly, straight from the formulas, sharing nothing with models/.

It reads the official names, computes in float64 and evaluation mode, walks through time and space with loops,
and fuses as published, in six dimensions: with features, attention, shift and scale at each stage's own size
wherever that is a multiple of 7, which is where the fast way claims to be exactly equal. For all other sizes
the concatenated shifts and scales are resized from 7x7 by adaptive max pooling.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.official import official_name

LEVELS = {1: "layer1", 2: "layer2", 3: "layer3", 4: "layer4"}


def windows(size: int, cells: int) -> list[slice]:
    """Adaptive pooling's windows of `size` positions for each of `cells`."""
    return [slice(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]


def adaptive_pool(x: Tensor, height: int, width: int, reduce: str) -> Tensor:
    """(...,H,W) -> (...,height,width) by the mean or the maximum of each window."""
    rows = []
    for row in windows(x.shape[-2], height):
        cells = [x[..., row, column].flatten(-2) for column in windows(x.shape[-1], width)]
        rows.append(torch.stack([c.mean(-1) if reduce == "mean" else c.amax(-1) for c in cells], -1))
    return torch.stack(rows, -2)


def read_at(x: np.ndarray, time: float) -> np.ndarray:
    """x (T,*) between two frames."""
    before = min(math.floor(time), max(len(x) - 2, 0))
    after = min(before + 1, len(x) - 1)
    return x[before] * (1 - (time - before)) + x[after] * (time - before)


class Reference:
    """A FineNet or CoarseNet in evaluation, from its weights alone."""

    def __init__(self, net: nn.Module, *, pool: str = "grid", fusion: str = "multistage") -> None:
        self.w = {official_name(k): v.detach().double() for k, v in net.state_dict().items()}
        self.pool, self.fusion = pool, fusion

    def conv(self, x: Tensor, name: str, **options: object) -> Tensor:
        return F.conv3d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        means = self.w[f"{name}.split_bn.running_mean"].reshape(-1, len(gain))
        mean = means.mean(0)
        var = self.w[f"{name}.split_bn.running_var"].reshape(-1, len(gain)).mean(0) + ((means - mean) ** 2).mean(0)
        gain = gain / (var + 1e-5).sqrt()
        return x * gain.view(-1, 1, 1, 1) + (bias - mean * gain).view(-1, 1, 1, 1)

    def stem(self, clip: Tensor) -> Tensor:
        x = self.conv(clip, "conv1_s", stride=(1, 2, 2), padding=(0, 1, 1))
        return F.relu(self.norm(self.conv(x, "conv1_t", padding=(2, 0, 0), groups=x.shape[1]), "bn1"))

    def stage(self, x: Tensor, stage: int) -> Tensor:
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in self.w:
            x = self.bottleneck(x, f"layer{stage}.{block}", stride=2 if block == 0 else 1, squeeze=block % 2 == 0)
            block += 1
        return x

    def bottleneck(self, x: Tensor, name: str, *, stride: int, squeeze: bool) -> Tensor:
        y = F.relu(self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1"))
        y = self.conv(y, f"{name}.conv2", stride=(1, stride, stride), padding=1, groups=y.shape[1])
        y = self.norm(y, f"{name}.bn2")
        if squeeze:
            gate = F.relu(self.conv(y.mean((2, 3, 4), keepdim=True), f"{name}.fc1"))
            y = y * torch.sigmoid(self.conv(gate, f"{name}.fc2"))
        y = self.norm(self.conv(y * torch.sigmoid(y), f"{name}.conv3"), f"{name}.bn3")
        if stride != 1:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride=(1, stride, stride)), f"{name}.downsample.1")
        return F.relu(y + x)

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of stage 4 -> conv5 (B,w5,T,h,w) and logits (B,classes,T)."""
        x = F.relu(self.norm(self.conv(x, "conv5"), "bn5"))
        hidden = F.relu(self.conv(x.mean((3, 4), keepdim=True), "fc1"))[..., 0, 0]
        return x, torch.einsum("kc,bct->bkt", self.w["fc2.weight"], hidden) + self.w["fc2.bias"].view(-1, 1)

    def fine(self, clip: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B,classes,T) and the five levels of features."""
        x, levels = self.stem(clip.double()), {}
        for stage, level in LEVELS.items():
            levels[level] = x = self.stage(x, stage)
        levels["conv5"], logits = self.head(x)
        return logits, {name: adaptive_pool(f, 7, 7, "mean") for name, f in levels.items()}

    def coarse(self, clip: Tensor, features: dict[str, Tensor], mask: Tensor, start: Tensor) -> Tensor:
        x, centres, grid = self.pooled(self.stage(self.stem(clip.double()), 1))
        centres = centres + start.double().view(-1, 1)
        for stage, level in LEVELS.items():
            x = x if stage == 1 else self.stage(x, stage)
            if self.fusion == "multistage":
                x = self.fuse_all(x, stage, features, mask, centres)
            elif self.fusion == "per_stage":
                shift, scale = self.calibration(f"rw{stage + 1}", features[level], mask, centres, x.shape[3:])
                x = x * torch.sigmoid(scale) + shift
        _, logits = self.head(x)
        if self.fusion != "none":
            aligned = self.align("rw6", features["conv5"].double(), mask, centres).mean((3, 4), keepdim=True)
            shift = self.two_layers(aligned, "rw6", "fc1", "fc2")[..., 0, 0]
            scale = self.two_layers(aligned, "rw6", "fc3", "fc4")[..., 0, 0]
            logits = logits * torch.sigmoid(scale) + shift
        return logits if grid is None else self.unpooled(logits, grid)

    # Pooling over time

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor, np.ndarray | None]:
        """Pooled x, the clip time (B,J) of its frames, and Grid Pool's grid."""
        B, _, T = x.shape[:3]
        if self.pool == "grid":
            return self.grid_pooled(x)
        if self.pool == "none":
            return x, torch.arange(T).double().expand(B, T), None
        groups = [x[:, :, t : t + 4] for t in range(0, T, 4)]
        if self.pool == "stride":
            frames = [g[:, :, 0] for g in groups]
        else:
            whole = [g for g in groups if g.shape[2] == 4]
            frames = [g.mean(2) if self.pool == "avg" else g.amax(2) for g in whole]
        return torch.stack(frames, 2), torch.tensor([[4.0 * j for j in range(len(frames))]] * B).double(), None

    def grid_pooled(self, x: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
        T, y = x.shape[2], x
        for i in (1, 2):
            y = F.relu(self.norm(self.conv(y, f"pool_1.conv{i}", stride=2, padding=1), f"pool_1.bn{i}"))
        z = self.conv(y, "pool_1.conv3", stride=(1, 2, 2), padding=(0, 1, 1)).mean((1, 3, 4)).numpy()
        steps = 1 - 1 / (1 + np.exp(-z / 2))
        steps = steps / (steps.sum(1, keepdims=True) + 1e-16)
        grid = np.concatenate([np.zeros((len(z), 1)), np.cumsum(steps, 1)], 1)
        videos = zip(x.transpose(1, 2).numpy(), grid, strict=True)
        sampled = np.stack([[read_at(video, g * (T - 1)) for g in row] for video, row in videos])
        return torch.from_numpy(sampled).transpose(1, 2), torch.from_numpy(grid * T), grid

    def unpooled(self, logits: Tensor, grid: np.ndarray) -> Tensor:
        N = grid.shape[1] - 1
        even = np.arange(N + 1) / N
        out = []
        for video, g in zip(logits.transpose(1, 2).numpy(), grid, strict=True):
            inverse = np.interp(even, g, even)
            frames = np.stack([read_at(video, u * N) for u in inverse])
            out.append(np.stack([read_at(frames, k * N / (4 * N - 1)) for k in range(4 * N)]))
        return torch.from_numpy(np.stack(out)).transpose(1, 2)

    # Fusion

    def pointwise(self, x: Tensor, name: str) -> Tensor:
        """A 1x1 conv over channels (dimension 1), whatever follows."""
        y = torch.tensordot(self.w[f"{name}.weight"].flatten(1), x, ([1], [1])).transpose(0, 1)
        return y + self.w[f"{name}.bias"].view(-1, *[1] * (x.dim() - 2))

    def two_layers(self, x: Tensor, part: str, first: str, second: str) -> Tensor:
        return self.pointwise(F.relu(self.pointwise(x, f"{part}.{first}")), f"{part}.{second}")

    def align(self, part: str, f: Tensor, mask: Tensor, centres: Tensor) -> Tensor:
        """Fine features f (B,C,T',h,w) at the coarse frames: (B,C,J,h,w)."""
        attention = torch.sigmoid(self.two_layers(f, part, "at1", "at2"))
        weights = gaussian(centres, mask)
        A = attention.unsqueeze(3) * weights[:, None, :, :, None, None]  # (B,1,T',J,h,w)
        A = A * mask.double()[:, None, :, None, None, None]
        return (f.unsqueeze(3) * A).sum(2) / (A.sum(2) + 1e-6)

    def calibration(
        self, part: str, f: Tensor, mask: Tensor, centres: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """One level's shift and scale (B,C,J,h,w), computed at the stage's size where that is a multiple of 7."""
        multiple = size[0] % 7 == 0 and size[1] % 7 == 0
        f = adaptive_pool(f.double(), *size, "max") if multiple else f.double()
        aligned = self.align(part, f, mask, centres)
        both = self.two_layers(aligned, part, "fc1", "fc2"), self.two_layers(aligned, part, "fc3", "fc4")
        return both if multiple else tuple(adaptive_pool(s, *size, "max") for s in both)

    def fuse_all(self, x: Tensor, stage: int, features: dict[str, Tensor], mask: Tensor, centres: Tensor) -> Tensor:
        pairs = [
            self.calibration(f"rw{i + 1}", features[level], mask, centres, x.shape[3:]) for i, level in LEVELS.items()
        ]
        shift, scale = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
        mix = f"mix{stage + 1}"
        return x * torch.sigmoid(self.pointwise(scale, f"{mix}.conv_at2")) + self.pointwise(shift, f"{mix}.conv_at")


def gaussian(centres: Tensor, mask: Tensor) -> Tensor:
    """w (B,T',J), one number at a time."""
    B, T = mask.shape
    weights = torch.zeros(B, T, centres.shape[1], dtype=torch.float64)
    for b in range(B):
        sigma = float(mask[b].sum()) / 8
        for j, mu in enumerate(centres[b].tolist()):
            column = [math.exp(-((t - mu) ** 2) / (2 * sigma**2 + 1e-16)) for t in range(T)]
            weights[b, :, j] = torch.tensor(column, dtype=torch.float64) / (max(column) + 1e-16)
    return weights
