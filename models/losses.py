"""The detection loss of both stages: classification and localisation (Coarse-Fine Networks, section 4.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def detection_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, *, align_corners: bool, mask_total: Tensor | None = None
) -> dict[str, Tensor]:
    """The mean of the video-level classification loss and the frame-level localisation loss.

    With p = sigmoid(logits) * mask:
    cls = mean over videos and classes of BCE(max_t p, max_t y), loc = sum of BCE(p, y) / (sum(mask) C).

    Args:
        logits: (B,C,t), interpolated linearly in time to the labels.
        labels: (B,C,L), 0 or 1.
        mask: (B,L), 1 for labelled frames, 0 for padding.
        align_corners: True in stage 1 and False in stage 3, as published.
        mask_total: divisor of loc instead of sum(mask), if a batch is divided among processes.

    Returns:
        {"loss", "cls_loss", "loc_loss"}: scalars, computed from the logits in float32 or wider.
    """
    logits = resize_logits(logits, labels.shape[2], align_corners=align_corners)
    return loss_at_labels(logits, labels, mask, mask_total=mask_total)


def loss_at_labels(
    logits: Tensor, labels: Tensor, mask: Tensor, *, mask_total: Tensor | None = None
) -> dict[str, Tensor]:
    """`detection_loss` for logits (B,C,L) at the labelled frames, in float32 or wider."""
    mask = mask.to(logits.dtype).unsqueeze(1)  # (B,1,L)
    labels = labels.to(logits.dtype) * mask
    highest = logits.masked_fill(mask == 0, torch.finfo(logits.dtype).min).amax(2)
    cls_loss = F.binary_cross_entropy_with_logits(highest, labels.amax(2))
    per_frame = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    total = mask.sum() if mask_total is None else mask_total
    loc_loss = (per_frame * mask).sum() / (total * logits.shape[1])
    return {"loss": (cls_loss + loc_loss) / 2, "cls_loss": cls_loss, "loc_loss": loc_loss}


def resize_logits(logits: Tensor, length: int, *, align_corners: bool) -> Tensor:
    """(B,C,t) -> (B,C,length) by linear interpolation in time, in float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, size=length, mode="linear", align_corners=align_corners)
