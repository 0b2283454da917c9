"""CPU kernels for operations that are slow or inaccurate in PyTorch on the CPU.

`install` adds them to an existing network. All operations equal PyTorch's own up to rounding. Memory is channels-last,
so that (B,C,T,H,W) is a matrix with B T H W rows and C columns.

- 1x1x1 convolutions are matrix products, and convolutions over space only are 2-D convolutions. (With one thread, the
  default per process under torchrun, PyTorch uses a slow path for both.)
- Depthwise convolutions: the gradients of 3-D depthwise convolutions take most of a step. The input gradient is a
  convolution with the flipped kernel (for stride 2, one for each parity of row and column). The weight gradient is a
  2-D weight gradient for each tap in time, over shifted frames.
- Batch norm: PyTorch accumulates channels-last sums in float32 row by row, which leaves few correct digits in the
  gradients of this network. Here, partial sums are added in double precision.
- Memory: without huge pages, half of the evaluation time is spent on allocating feature maps in pages of 4 KiB.
"""

import os

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from models.norm import SubBatchNorm3d
from models.x3d import Bottleneck, Stem

CHUNK = 2**20  # elements processed at a time: few steps, and temporaries that the allocator reuses
GROUP = 64  # rows summed in parallel


def install(net: nn.Module) -> None:
    """Use the kernels of this file in a network on the CPU; networks on other devices are unchanged.

    Modules get the classes below, each of which overrides one method. Parameters, names and hooks are unchanged. Under
    autocast, or if the network is moved to another device, they use PyTorch's operations. Clips, and therefore all
    feature maps, are converted to channels-last memory.
    """
    if any(tensor.device.type != "cpu" for tensor in net.parameters()):
        return
    for module in net.modules():
        module.__class__ = ON_CPU.get(type(module), type(module))
        if isinstance(module, Stem):
            module.memory_format = torch.channels_last_3d


def applies(x: Tensor) -> bool:
    """Whether to use the kernels of this file for x: a CPU tensor, not under autocast."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def ask_for_huge_pages() -> None:
    """Let PyTorch allocate large tensors on pages of 2 MiB, if available on Linux. Call this before the first tensor.

    Applies to this process and those it starts. Set THP_MEM_ALLOC_ENABLE=0 in the environment to disable.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


# --- depthwise convolution --------------------------------------------------------------------------------------------


class DepthwiseConv3d(Function):
    """conv3d(x, weight, stride=(1,s,s), padding=kernel//2, groups=C); s is 1 or 2; kernels are odd, 1 or 3 in space."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _depthwise(x, weight, stride)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        grad_weight = _weight_gradient(grad, x, weight, ctx.stride) if ctx.needs_input_grad[1] else None
        grad_x = _input_gradient(grad, weight, x.shape, ctx.stride) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, None


def _depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    C, padding = x.shape[1], [k // 2 for k in weight.shape[2:]]
    if weight.shape[3:] == (1, 1):  # over time only: a 2-D convolution over (T,H*W)
        return F.conv2d(x.flatten(3), weight.squeeze(4), None, 1, padding[:2], 1, C).view_as(x)
    return F.conv3d(x, weight, None, (1, stride, stride), padding, 1, C)


def _input_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, stride: int) -> Tensor:
    flipped = weight.flip(2, 3, 4)
    if stride == 1:
        return _depthwise(grad, flipped, 1)
    # Row 2m of x meets only tap 1 of output row m; row 2m+1 meets tap 2 of row m and tap 0 of row m+1.
    grad_x = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last_3d)
    taps = (slice(1, 2), slice(0, 3, 2))
    for video in range(shape[0]):  # one at a time to save memory
        padded = F.pad(grad[video : video + 1], (0, 1, 0, 1))
        for row in (0, 1):
            for column in (0, 1):
                phase = grad_x[video : video + 1, :, :, row::2, column::2]
                kernel = flipped[:, :, :, taps[row], taps[column]]
                part = F.conv3d(padded, kernel, None, 1, (weight.shape[2] // 2, 0, 0), 1, shape[1])
                phase.copy_(part[:, :, :, : phase.shape[3], : phase.shape[4]])
    return grad_x


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    taps, kh, kw = weight.shape[2:]
    T, result = x.shape[2], torch.zeros_like(weight)
    if kh == kw == 1:
        images, grads = x.flatten(3), grad.flatten(3)  # (B,C,T,H*W)
        kernel = weight.shape[:4]
        return conv2d_weight(images, kernel, grads, padding=(taps // 2, 0), groups=len(weight)).view_as(weight)
    for tap in range(taps):  # a 2-D gradient over the pairs of frames for this tap
        shift = tap - taps // 2
        if abs(shift) >= T:
            continue
        first, last = max(0, shift), T + min(0, shift)
        for video, g in zip(x.transpose(1, 2), grad.transpose(1, 2), strict=True):  # (T,C,H,W), views
            frames, g = video[first:last], g[first - shift : last - shift]
            kernel = weight[:, :, tap].shape
            result[:, :, tap] += conv2d_weight(frames, kernel, g, stride, (kh // 2, kw // 2), groups=len(weight))
    return result


# --- activation -------------------------------------------------------------------------------------------------------


class ReLU(Function):
    """In-place ReLU, whose backward pass is in place, too.

    Only for an x whose single consumer is a convolution of this file.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(min=0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)


# --- batch norm -------------------------------------------------------------------------------------------------------


class BatchNorm(Function):
    """Batch norm in training: (x, weight, bias, eps) -> normalised x, batch mean and biased batch variance."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        rows = _rows(x)
        mean = column_sums(rows) / len(rows)
        centre = mean.to(x.dtype)
        # Relative to the rounded mean; its rounding error is corrected below.
        squares = sum(column_sums(torch.sub(chunk, centre).square_()) for chunk in _chunks(rows)) / len(rows)
        var = squares - (mean - centre) ** 2
        gain = weight.double() / (var + eps).sqrt()
        shift = bias.double() - mean * gain
        out = torch.empty_like(x)
        for chunk, target in zip(_chunks(rows), _chunks(_rows(out)), strict=True):
            torch.addcmul(shift.to(x.dtype), chunk, gain.to(x.dtype), out=target)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        rows, grads = _rows(x), _rows(grad)
        n, centre, invstd = len(rows), mean.to(x.dtype), (var + ctx.eps).rsqrt()
        grad_bias = column_sums(grads)
        products = sum(
            column_sums(torch.sub(chunk, centre).mul_(g))
            for chunk, g in zip(_chunks(rows), _chunks(grads), strict=True)
        )
        grad_weight = (products - (mean - centre) * grad_bias) * invstd
        # dx = weight/std (g - mean(g) - xhat mean(g xhat)), as a g + b x + c for each channel
        a = weight.double() * invstd
        b = -a * invstd * grad_weight / n
        c = -a * grad_bias / n - b * mean
        a, b, c = (v.to(x.dtype) for v in (a, b, c))
        grad_x = torch.empty_like(x)
        for chunk, g, target in zip(_chunks(rows), _chunks(grads), _chunks(_rows(grad_x)), strict=True):
            torch.addcmul(c, chunk, b, out=target).addcmul_(g, a)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def column_sums(rows: Tensor) -> Tensor:
    """Column sums (C,) of a matrix (n,C): 64 partial sums in the matrix's own precision, added in double."""
    n, C = rows.shape
    whole = n - n % GROUP
    sums = rows[whole:].double().sum(0)
    if whole:
        sums += rows[:whole].view(-1, GROUP * C).sum(0).view(GROUP, C).double().sum(0)
    return sums


def _rows(x: Tensor) -> Tensor:
    """View channels-last memory as a matrix (B*T*H*W, C)."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


def _chunks(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(GROUP, CHUNK // rows.shape[1]))


# --- in the network ---------------------------------------------------------------------------------------------------


class CpuConv3d(nn.Conv3d):
    """Conv3d with the kernels of this file for depthwise, 1x1x1 and spatial convolutions.

    Assumes "same" zero padding without dilation, as everywhere in X3D.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size, self.stride
        if not applies(x):
            return super().forward(x)
        if kernel == (1, 1, 1) and self.groups == 1:
            rows = x[:, :, :: stride[0], :: stride[1], :: stride[2]].permute(0, 2, 3, 4, 1)
            return F.linear(rows, self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)
        if kernel[0] == stride[0] == 1 and self.groups == 1:  # over space only: a 2-D convolution of each frame
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.conv2d(frames, self.weight.squeeze(2), self.bias, stride[1:], self.padding[1:])
            return frames.unflatten(0, (len(x), -1)).transpose(1, 2)
        depthwise = self.groups == x.shape[1] and self.bias is None and stride in ((1, 1, 1), (1, 2, 2))
        if depthwise and (torch.is_grad_enabled() or kernel[1:] == (1, 1)):
            return DepthwiseConv3d.apply(x, self.weight, stride[1])
        return super().forward(x)


class CpuSubBatchNorm3d(SubBatchNorm3d):
    """SubBatchNorm3d that uses this file's batch norm in training."""

    def batch_norm(self, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not applies(x):
            return super().batch_norm(x, mean, var, weight, bias)
        out, batch_mean, batch_var = BatchNorm.apply(x, weight, bias, self.eps)
        n = x.numel() / len(batch_mean)
        mean.lerp_(batch_mean, self.momentum)
        var.lerp_(batch_var * (n / (n - 1)), self.momentum)
        return out


class CpuBottleneck(Bottleneck):
    """Bottleneck that uses this file's ReLU after the expansion."""

    def relu(self, y: Tensor) -> Tensor:
        """In place in the backward pass, too, except under torch.compile, which decides that itself."""
        own = applies(y) and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return ReLU.apply(y) if own else super().relu(y)


ON_CPU = {nn.Conv3d: CpuConv3d, SubBatchNorm3d: CpuSubBatchNorm3d, Bottleneck: CpuBottleneck}
