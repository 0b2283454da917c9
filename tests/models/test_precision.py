"""Number formats, and gradients that reach every parameter."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.losses import detection_loss
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net

CHOICES = [
    ("fine", {}),
    ("coarse", {"pool": "grid", "fusion": "multistage"}),
    ("coarse", {"pool": "grid", "fusion": "per_stage"}),
    ("coarse", {"pool": "grid", "fusion": "none"}),
    ("coarse", {"pool": "avg", "fusion": "multistage"}),
    ("coarse", {"pool": "max", "fusion": "multistage"}),
    ("coarse", {"pool": "stride", "fusion": "per_stage"}),
    ("coarse", {"pool": "none", "fusion": "multistage"}),
]


def make_and_call(kind, **options):
    """A network by name, and a function that runs it on drawn inputs of its own dtype."""
    if kind == "fine":
        net = fine_net(**options)
        return net, lambda: net(draw_clip(2, 6, dtype=options.get("dtype", torch.float32)))
    net = coarse_net(**options)
    return net, lambda: net(*coarse_inputs(dtype=options.get("dtype", torch.float32)))


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_bfloat16_autocast_is_near_single_precision(kind):
    net, call = make_and_call(kind)
    net.eval()
    with torch.no_grad():
        expected = call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = call()
    spread = expected.std()
    assert (logits.float() - expected).abs().max() < 0.15 * spread
    assert (logits.float() - expected).abs().mean() < 0.03 * spread


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_bfloat16_autocast_trains(kind):
    net, call = make_and_call(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = call()
        labels = torch.ones(2, 5, 20)
        loss = detection_loss(logits, labels, torch.ones(2, 20), align_corners=False)["loss"]
    assert loss.dtype == torch.float32
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad.dtype == torch.float32, name
        assert p.grad.isfinite().all(), name


class Types(TorchDispatchMode):
    """The floating-point types of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.seen.update(x.dtype for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.is_floating_point())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_double_precision_is_kept_throughout(kind, training, dtype):
    net, call = make_and_call(kind, dtype=dtype)
    net.train(training)
    with Types() as types:
        logits = call()
        logits.sum().backward()
    assert logits.dtype == dtype
    if dtype == torch.float64:
        assert types.seen == {torch.float64}


@pytest.mark.parametrize(("kind", "options"), CHOICES, ids=str)
def test_no_parameter_is_unused(kind, options):
    net, call = make_and_call(kind, dtype=torch.float64, **options)
    for training in (True, False):
        net.train(training).zero_grad()
        call().square().mean().backward()
        for name, p in net.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            if not training:  # in training, a norm that follows takes out what a bias adds
                assert p.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("part", ["grid_pool.conv", "fusion.levels", "fusion.stages", "logit_fusion", "stem", "head"])
def test_gradients_are_those_of_finite_differences(part):
    """Through the whole Coarse-Fine network in training, Grid Pool's choice of frames included."""
    net, call = make_and_call("coarse", dtype=torch.float64, dropout=0.0)
    call().square().mean().backward()
    generator = torch.Generator().manual_seed(0)
    moved = [p for name, p in net.named_parameters() if part in name]
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in moved]
    slope = sum((p.grad * d).sum() for p, d in zip(moved, directions, strict=True)).item()
    values, step = [], 1e-6
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(moved, directions, strict=True):
                p.add_(sign * step * d)
            values.append(call().square().mean().item())
    assert abs(slope) > 1e-4
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-3)
