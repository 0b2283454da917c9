"""The detection loss against its formula, written from probabilities, and at its borders."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.losses import detection_loss

B, C, L = 3, 4, 30


def drawn(frames=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, C, frames, generator=generator, dtype=dtype)
    labels = (torch.rand(B, C, L, generator=generator) > 0.7).to(dtype)
    mask = (torch.arange(L) < torch.tensor([L, 22, 17]).unsqueeze(1)).to(dtype)
    return logits, labels, mask


def formula(logits, labels, mask, align_corners):
    p = torch.sigmoid(F.interpolate(logits, size=L, mode="linear", align_corners=align_corners)) * mask.unsqueeze(1)
    y = labels * mask.unsqueeze(1)

    cls = F.binary_cross_entropy(p.amax(2), y.amax(2))
    loc = F.binary_cross_entropy(p, y, reduction="sum") / (mask.sum() * C)
    return {"loss": (cls + loc) / 2, "cls_loss": cls, "loc_loss": loc}


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("frames", [1, 9, L, 50])
def test_equals_the_formula(frames, align_corners):
    logits, labels, mask = drawn(frames)
    losses = detection_loss(logits, labels, mask, align_corners=align_corners)
    torch.testing.assert_close(losses, formula(logits, labels, mask, align_corners))


def test_by_hand():
    """Two frames, p = 1/2 and 3/4, the class there in the first only."""
    logits = torch.tensor([[[0.0, math.log(3)]]])
    losses = detection_loss(logits, torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 2), align_corners=True)
    assert losses["cls_loss"].item() == pytest.approx(-math.log(3 / 4))
    assert losses["loc_loss"].item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert losses["loss"].item() == pytest.approx((losses["cls_loss"] + losses["loc_loss"]).item() / 2)


def test_corners():
    """Two logits over four labels: the ends are met with align_corners, overshot (and clamped) without."""
    logits, labels, mask = torch.tensor([[[-1.0, 2.0]]]), torch.zeros(1, 1, 4), torch.ones(1, 4)
    for align_corners, resized in ((True, [-1.0, 0.0, 1.0, 2.0]), (False, [-1.0, -0.25, 1.25, 2.0])):
        loss = detection_loss(logits, labels, mask, align_corners=align_corners)["loc_loss"]
        assert loss.item() == pytest.approx(F.softplus(torch.tensor(resized)).mean().item())


def test_gradient_equals_the_formulas():
    grads = []
    for function in (lambda *args: detection_loss(*args, align_corners=False), lambda *args: formula(*args, False)):
        logits, labels, mask = drawn()
        function(logits.requires_grad_(), labels, mask)["loss"].backward()
        grads.append(logits.grad)
    torch.testing.assert_close(*grads)


def test_nothing_behind_the_mask_matters():
    logits, labels, mask = drawn(L)
    hidden = mask.unsqueeze(1) == 0
    expected = detection_loss(logits, labels, mask, align_corners=False)
    changed = logits.masked_fill(hidden, 1e4).requires_grad_(), labels.masked_fill(hidden, 1), mask
    losses = detection_loss(*changed, align_corners=False)
    torch.testing.assert_close(losses, expected)
    losses["loss"].backward()
    assert (changed[0].grad.masked_select(hidden) == 0).all()


def test_a_video_without_labelled_frames():
    logits, labels, mask = drawn(L)
    mask[1] = 0
    losses = detection_loss(logits.requires_grad_(), labels, mask, align_corners=False)
    torch.testing.assert_close(losses, formula(logits, labels, mask, False))
    losses["loss"].backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_extreme_logits(dtype, size):
    """Where a probability is 0 or 1, the loss is the logit's distance, not infinite and not cut off."""
    logits = torch.tensor([[[size, size], [-size, -size]]], dtype=dtype).requires_grad_()
    labels = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    losses = detection_loss(logits, labels, torch.ones(1, 2), align_corners=True)
    size = logits[0, 0, 0].item()  # as the dtype holds it
    for name, value in losses.items():
        assert value.item() == pytest.approx(size), name
    losses["loss"].backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, 0] > 0).all()
    assert (logits.grad[0, 1] < 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened(dtype):
    logits, labels, mask = drawn(dtype=torch.float32)
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detection_loss(half, labels, mask, align_corners=False)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    torch.testing.assert_close(losses, detection_loss(half.float(), labels, mask, align_corners=False))


def test_processes_share_the_divisor():
    """Each process's loc by the global mask sum: their sum is the loss of the whole batch."""
    logits, labels, mask = drawn()
    whole = detection_loss(logits, labels, mask, align_corners=False)
    parts = [
        detection_loss(logits[b], labels[b], mask[b], align_corners=False, mask_total=mask.sum())
        for b in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(parts[0]["loc_loss"] + parts[1]["loc_loss"], whole["loc_loss"])
    torch.testing.assert_close((parts[0]["cls_loss"] + 2 * parts[1]["cls_loss"]) / 3, whole["cls_loss"])


def test_labels_and_mask_of_any_type():
    logits, labels, mask = drawn()
    expected = detection_loss(logits, labels, mask, align_corners=True)
    other_types = detection_loss(logits, labels.to(torch.uint8), mask.bool(), align_corners=True)
    torch.testing.assert_close(other_types, expected)
