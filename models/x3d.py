"""X3D, the backbone of both streams (Feichtenhofer, "X3D", CVPR 2020; Coarse-Fine Networks, section 4).

    clip (B,3,T,H,W)
      stem       1x3x3 conv over space, depthwise 5x1x1 conv over time, BN, ReLU     (B,w1,T,H/2,W/2)
      stages     four stages of inverted bottlenecks, each halves H and W            (B,w4,T,H/32,W/32)
      conv5      1x1x1 conv, BN, ReLU                                                (B,w5,T,H/32,W/32)
      head       mean over space, 1x1x1 conv, ReLU, dropout, linear                  (B,classes,T)

Time is never strided, so a network trained on clips runs on whole videos and predicts every frame.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.norm import SubBatchNorm3d, recomputation

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class Variant:
    """Widths, depths and input size (side of the square, in pixels) of an X3D variant."""

    depths: tuple[int, ...]
    inner: tuple[int, ...]
    out: tuple[int, ...]
    hidden: int
    size: int

    @property
    def conv5(self) -> int:
        return self.inner[-1]

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each level of the fine features, from shallow to deep."""
        return {**{f"layer{i}": c for i, c in enumerate(self.out, 1)}, "conv5": self.conv5}


VARIANTS = {
    "S": Variant((3, 5, 11, 7), (54, 108, 216, 432), (24, 48, 96, 192), 2048, 160),
    "M": Variant((3, 5, 11, 7), (54, 108, 216, 432), (24, 48, 96, 192), 2048, 224),
    "XL": Variant((5, 10, 25, 15), (72, 162, 306, 630), (32, 72, 136, 280), 2048, 312),
    "tiny": Variant((1, 1, 2, 1), (24, 32, 64, 96), (12, 16, 32, 48), 256, 64),
}


def maybe_checkpoint(block: Callable[[Tensor], Tensor], x: Tensor, wanted: bool) -> Tensor:
    """block(x); if wanted, its activations are recomputed in the backward pass instead of stored.

    Saves memory for about a third more compute. Gradients are equal, and running statistics are updated once.
    """
    if not wanted or not torch.is_grad_enabled():
        return block(x)
    return _checkpointed(block, x)


@torch.compiler.disable  # torch.compile does not support context_fn
def _checkpointed(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), recomputation())
    )


def named_variant(name: str) -> Variant:
    """The variant with this name. Raises ValueError for unknown names."""
    if name not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {name!r}")
    return VARIANTS[name]


class ConvNorm(nn.Module):
    """A convolution without bias, followed by a norm. `prepare_for_inference` folds both into one convolution."""

    def __init__(
        self, cin: int, cout: int, kernel: Size3, *, stride: Size3 = (1, 1, 1), groups: int = 1, bn_splits: int = 1
    ) -> None:
        super().__init__()
        t, h, w = kernel
        same = (t // 2, h // 2, w // 2)  # padding that preserves the size at stride 1
        self.conv = nn.Conv3d(cin, cout, kernel, stride, same, groups=groups, bias=False)
        self.norm = SubBatchNorm3d(cout, splits=bn_splits)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation over time and space (Hu et al., CVPR 2018), ratio 1/16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = squeeze_width(channels)
        self.reduce = nn.Conv3d(channels, width, 1)
        self.expand = nn.Conv3d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = x.mean((2, 3, 4), keepdim=True)
        gates = self.expand(F.relu(self.reduce(gates)))
        return x * torch.sigmoid(gates)


def squeeze_width(channels: int) -> int:
    """`channels / 16` rounded to a multiple of 8, at least 8, plus 8 if rounding reduced it by more than 10%."""
    wanted = channels / 16
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width


class Bottleneck(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, squeeze-and-excitation, projection and shortcut.

    In training, activations between the depthwise norm and the projection are recomputed, which saves a seventh of the
    memory at little cost. With `checkpoint_activations`, only the block's input is stored (see `maybe_checkpoint`).
    """

    def __init__(
        self,
        cin: int,
        inner: int,
        cout: int,
        *,
        stride: int,
        squeeze: bool,
        bn_splits: int,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        strides: Size3 = (1, stride, stride)
        self.expand = ConvNorm(cin, inner, (1, 1, 1), bn_splits=bn_splits)
        self.depthwise = ConvNorm(inner, inner, (3, 3, 3), stride=strides, groups=inner, bn_splits=bn_splits)
        self.squeeze_excite = SqueezeExcite(inner) if squeeze else nn.Identity()
        self.project = ConvNorm(inner, cout, (1, 1, 1), bn_splits=bn_splits)
        changes_shape = stride != 1 or cin != cout
        self.shortcut = (
            ConvNorm(cin, cout, (1, 1, 1), stride=strides, bn_splits=bn_splits) if changes_shape else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,cin,T,H,W) -> (B,cout,T,H/stride,W/stride)."""
        return maybe_checkpoint(self._forward, x, self.checkpoint_activations and self.training)

    def _forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.relu(self.expand(x)))
        compiling = torch.compiler.is_compiling()  # the compiler decides what is stored
        recompute = self.training and not self.checkpoint_activations and not compiling
        y = self.project.norm(maybe_checkpoint(self._gate_and_project, y, recompute))
        return F.relu(y + self.shortcut(x), inplace=True)

    def relu(self, y: Tensor) -> Tensor:
        """ReLU between expansion and depthwise convolution; in place, since y is not used elsewhere."""
        return F.relu(y, inplace=True)

    def _gate_and_project(self, y: Tensor) -> Tensor:
        return self.project.conv(F.silu(self.squeeze_excite(y)))


class Stem(nn.Module):
    """A convolution over space, followed by a depthwise convolution over time."""

    memory_format = torch.contiguous_format  # of the clip, hence of all feature maps

    def __init__(self, cout: int, *, bn_splits: int, checkpoint_activations: bool) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.spatial = nn.Conv3d(3, cout, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.temporal = ConvNorm(cout, cout, (5, 1, 1), groups=cout, bn_splits=bn_splits)

    def forward(self, clip: Tensor) -> Tensor:
        """(B,3,T,H,W) -> (B,w1,T,H/2,W/2)."""
        clip = clip.contiguous(memory_format=self.memory_format)
        return maybe_checkpoint(self._forward, clip, self.checkpoint_activations and self.training)

    def _forward(self, clip: Tensor) -> Tensor:
        return F.relu(self.temporal(self.spatial(clip)), inplace=True)


class Backbone(nn.Module):
    """Stem, four stages and conv5. It has no forward; both streams call its parts."""

    def __init__(self, variant: Variant, *, bn_splits: int = 1, checkpoint_activations: bool = False) -> None:
        super().__init__()
        cin = variant.out[0]
        self.stem = Stem(cin, bn_splits=bn_splits, checkpoint_activations=checkpoint_activations)
        self.stages = nn.ModuleList()
        for depth, inner, cout in zip(variant.depths, variant.inner, variant.out, strict=True):
            stage = nn.Sequential()
            for i in range(depth):  # the first block halves H and W; every second block has squeeze-and-excitation
                block = Bottleneck(
                    cin if i == 0 else cout,
                    inner,
                    cout,
                    stride=2 if i == 0 else 1,
                    squeeze=i % 2 == 0,
                    bn_splits=bn_splits,
                    checkpoint_activations=checkpoint_activations,
                )
                stage.append(block)
            self.stages.append(stage)
            cin = cout
        self.conv5 = ConvNorm(variant.out[-1], variant.conv5, (1, 1, 1), bn_splits=bn_splits)


class Head(nn.Module):
    """Class logits for every frame."""

    def __init__(self, cin: int, hidden: int, num_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden = nn.Conv3d(cin, hidden, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B,w5,T,H,W) -> (B,classes,T)."""
        x = x.mean((3, 4), keepdim=True)  # (B,w5,T,1,1)
        x = F.relu(self.hidden(x)).flatten(2).transpose(1, 2)  # (B,T,hidden)
        return self.classify(self.dropout(x)).transpose(1, 2)  # (B,classes,T)


def initialise(net: nn.Module) -> None:
    """Initialise every Conv3d with Kaiming-normal weights (fan out, ReLU); other modules keep PyTorch's default."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
