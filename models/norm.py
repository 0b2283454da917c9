"""Sub-batch normalisation: batch norm over interleaved groups of the batch.

Source: the multigrid training of X3D (Wu et al., "A Multigrid Method for Efficiently Training Video
Models", CVPR 2020), from which both streams of Coarse-Fine Networks get their Kinetics weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional as F

_recomputing = ContextVar("recomputing", default=False)


@contextmanager
def recomputation() -> Iterator[None]:
    """Within the context, forward passes repeat earlier ones and do not update the running statistics."""
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)


def aggregate_statistics(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of groups of equal size.

    Args:
        means, variances: (G,C), one row per group.

    Returns:
        mean (C,) and variance (C,): the mean of the variances plus the population variance of the means.
    """
    return means.mean(0), variances.mean(0) + means.var(0, unbiased=False)


class SumOverProcesses(Function):
    """Differentiable sum of a tensor over all processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return SumOverProcesses.forward(ctx, grad)


class SubBatchNorm3d(nn.Module):
    """Batch norm with separate statistics for `splits` groups; sample i belongs to group i mod splits.

    All groups share weight and bias. Evaluation aggregates the running statistics of all groups, so that `net.eval()`
    is sufficient. With `splits=1`, this is plain batch norm.

    Buffers: running_mean, running_var (splits*C,), group-major; the variance is unbiased.

    Args:
        synchronised: In training with several processes (torch.distributed), normalise over the batches of all
            processes. By default, each process normalises its own.
    """

    def __init__(
        self, channels: int, *, splits: int = 1, eps: float = 1e-5, momentum: float = 0.1, synchronised: bool = False
    ) -> None:
        super().__init__()
        if synchronised and splits > 1:
            raise ValueError("a synchronised norm must have one group")
        self.channels, self.splits, self.eps, self.momentum = channels, splits, eps, momentum
        self.synchronised = synchronised
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(splits * channels))
        self.register_buffer("running_var", torch.ones(splits * channels))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and variance (C,) used in evaluation."""
        if self.splits == 1:
            return self.running_mean, self.running_var
        groups = (self.splits, self.channels)
        return aggregate_statistics(self.running_mean.view(groups), self.running_var.view(groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> the same shape; in training B must be divisible by `splits`."""
        if not self.training:
            return F.batch_norm(x, *self.statistics(), self.weight, self.bias, eps=self.eps)
        if self.splits == 1:
            return self._normalise(x, self.weight, self.bias)
        B, C = x.shape[:2]
        if B % self.splits:
            raise ValueError(f"a batch of {B} cannot be split into bn_splits={self.splits} equal groups")
        grouped = x.reshape(B // self.splits, self.splits * C, *x.shape[2:])
        return self._normalise(grouped, self.weight.repeat(self.splits), self.bias.repeat(self.splits)).reshape(x.shape)

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if _recomputing.get():
            mean, var = mean.clone(), var.clone()
        if self.synchronised and distributed.is_initialized() and distributed.get_world_size() > 1:
            return self.batch_norm_over_processes(x, mean, var)
        return self.batch_norm(x, mean, var, weight, bias)

    def batch_norm(self, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """F.batch_norm in training; updates the running statistics mean and var (C,)."""
        return F.batch_norm(x, mean, var, weight, bias, True, self.momentum, self.eps)

    def batch_norm_over_processes(self, x: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        """`batch_norm` with statistics over the x (B,C,T,H,W) of all processes; sums are in float64."""
        values = x.double()
        n = SumOverProcesses.apply(values.new_tensor(x.numel() // x.shape[1]))
        mean = SumOverProcesses.apply(values.sum((0, 2, 3, 4))) / n
        centred = values - mean.view(-1, 1, 1, 1)
        var = SumOverProcesses.apply(centred.square().sum((0, 2, 3, 4))) / n
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), self.momentum)
            running_var.lerp_((var * n / (n - 1)).to(running_var.dtype), self.momentum)
        gain = self.weight * (var + self.eps).rsqrt()
        return (centred * gain.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Aggregate statistics with a different number of groups into one, and repeat it."""
        keys = [f"{prefix}running_mean", f"{prefix}running_var"]
        stored = [state_dict[key] for key in keys if key in state_dict]
        if len(stored) == len(keys) and all(s.numel() % self.channels == 0 for s in stored):
            means, variances = (s.view(-1, self.channels) for s in stored)
            if len(means) == len(variances) != self.splits:
                one_group = aggregate_statistics(means, variances)
                state_dict.update(zip(keys, (s.repeat(self.splits) for s in one_group), strict=True))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.channels}, splits={self.splits}"
