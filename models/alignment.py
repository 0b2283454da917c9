"""Temporal alignment: weights of the fine frames for each coarse frame.

Coarse-Fine Networks, section 3.3 ("Multi-stage Fusion", temporal alignment by Gaussians), and its alternatives.

Weights are (B,T',J), for T' fine frames and J coarse frames. Padded frames have weights, too: multiply by the mask
before summing over t.
"""

import torch
from torch import Tensor


def gaussian_weights(centres: Tensor, fine_mask: Tensor, *, scale: float = 1 / 8) -> Tensor:
    """Gaussian weights of the fine frames for each coarse frame.

    w(t,j) = exp(-(t - mu_j)^2 / (2 sigma^2)), sigma = scale * (valid fine frames), divided by its maximum over t.

    Args:
        centres: mu (B,J), in fine frames.
        fine_mask: (B,T'), 1 for frames of the video, 0 for padding.

    Returns:
        (B,T',J) in [0,1].
    """
    t = torch.arange(fine_mask.shape[1], dtype=centres.dtype, device=centres.device)
    sigma = fine_mask.to(centres.dtype).sum(1).view(-1, 1, 1) * scale
    distance = t.view(1, -1, 1) - centres.unsqueeze(1)  # (B,T',J)
    weights = torch.exp(-distance.square() / (2 * sigma.square() + 1e-16))
    return weights / (weights.amax(1, keepdim=True) + 1e-16)


def uniform_weights(centres: Tensor, fine_mask: Tensor) -> Tensor:
    """w(t,j) = 1: all fine frames have equal weights. Arguments and result: see `gaussian_weights`."""
    return centres.new_ones(*fine_mask.shape, centres.shape[1])


def window_weights(centres: Tensor, fine_mask: Tensor, *, reach: float) -> Tensor:
    """w(t,j) = 1 if |t - mu_j| <= reach (in fine frames), else 0. Arguments and result: see `gaussian_weights`."""
    t = torch.arange(fine_mask.shape[1], dtype=centres.dtype, device=centres.device)
    return ((t.view(1, -1, 1) - centres.unsqueeze(1)).abs() <= reach).to(centres.dtype)
