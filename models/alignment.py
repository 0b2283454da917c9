"""Where the coarse frames lie on the Fine stream's time axis, and how much each fine frame matters to each.

Coarse-Fine Networks, section 3.3 ("Multi-stage Fusion", temporal alignment by Gaussians).
"""

import torch
from torch import Tensor


def gaussian_weights(centres: Tensor, fine_mask: Tensor, *, scale: float = 1 / 8) -> Tensor:
    """How much each fine frame contributes to each coarse frame.

    w(t,j) = exp(-(t - mu_j)^2 / (2 sigma^2)), sigma = scale * (valid fine frames), divided by its maximum over t.

    Args:
        centres: mu (B,J), in fine frames.
        fine_mask: (B,T'), 1 for frames of the video, 0 for padding.

    Returns:
        (B,T',J) in [0,1]. Padded frames have weights too: whoever sums over t multiplies by the mask.
    """
    t = torch.arange(fine_mask.shape[1], dtype=centres.dtype, device=centres.device)
    sigma = fine_mask.to(centres.dtype).sum(1).view(-1, 1, 1) * scale
    distance = t.view(1, -1, 1) - centres.unsqueeze(1)                # (B,T',J)
    weights = torch.exp(-distance.square() / (2 * sigma.square() + 1e-16))
    return weights / (weights.amax(1, keepdim=True) + 1e-16)
