"""Optimising a network for evaluation, extraction and prediction."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models import cpu_kernels
from models.norm import SubBatchNorm3d

Net = TypeVar("Net", bound=nn.Module)


def prepare_for_inference(net: Net) -> Net:
    """A copy of `net` in evaluation mode, with every norm folded (in double) into the preceding convolution,
    channels-last weights, and on the CPU the kernels of `models.cpu_kernels`.

    The copy computes the same logits up to rounding, cannot be trained, and shares no memory with `net`.
    """
    net = copy.deepcopy(net).requires_grad_(False)
    cpu_kernels.install(net)
    for parent in net.modules():
        for number in ("", "1", "2"):  # ConvNorm and Grid Pool
            conv, norm = getattr(parent, f"conv{number}", None), getattr(parent, f"norm{number}", None)
            if isinstance(conv, nn.Conv3d) and isinstance(norm, SubBatchNorm3d):
                mean, var = (statistics.double() for statistics in norm.statistics())
                bias = None if conv.bias is None else conv.bias.double()
                folded = fuse_conv_bn_weights(
                    conv.weight.double(), bias, mean, var, norm.eps, norm.weight.double(), norm.bias.double()
                )
                conv.weight, conv.bias = (nn.Parameter(p.to(conv.weight.dtype), requires_grad=False) for p in folded)
                setattr(parent, f"norm{number}", nn.Identity())
    return net.eval().to(memory_format=torch.channels_last_3d)
