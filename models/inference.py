"""An equal, faster network for evaluation, extraction and prediction."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.norm import SubBatchNorm3d
from models.pooling import GridPool
from models.x3d import ConvNorm

Net = TypeVar("Net", bound=nn.Module)


def prepare_for_inference(net: Net) -> Net:
    """A copy of `net` in evaluation mode with every norm folded into its convolution, weights channels-last.

    The copy gives the same logits up to rounding, cannot be trained, and shares no memory with `net`.
    """
    net = copy.deepcopy(net).requires_grad_(False)
    for module in net.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, SubBatchNorm3d):
            module.conv, module.norm = fold(module.conv, module.norm), nn.Identity()
        elif isinstance(module, GridPool) and isinstance(module.norm1, SubBatchNorm3d):
            module.conv1, module.norm1 = fold(module.conv1, module.norm1), nn.Identity()
            module.conv2, module.norm2 = fold(module.conv2, module.norm2), nn.Identity()
    return net.eval().to(memory_format=torch.channels_last_3d)


def fold(conv: nn.Conv3d, norm: SubBatchNorm3d) -> nn.Conv3d:
    """The convolution followed by the norm in evaluation, as one convolution with bias; computed in double."""
    mean, var = (s.double() for s in norm.statistics())
    gain = norm.weight.double() / (var + norm.eps).sqrt()
    shift = torch.zeros_like(mean) if conv.bias is None else conv.bias.double()
    folded = copy.deepcopy(conv)
    folded.weight = _like(conv.weight, conv.weight.double() * gain.view(-1, 1, 1, 1, 1))
    folded.bias = _like(conv.weight, (shift - mean) * gain + norm.bias.double())
    return folded


def _like(reference: Tensor, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(reference.dtype), requires_grad=False)
