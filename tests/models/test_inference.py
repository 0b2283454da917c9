"""`prepare_for_inference`: an equal network, and an original that stays as it was."""

import pytest
import torch

from models import prepare_for_inference
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bn_splits", [1, 2])
def test_fine_stream(bn_splits, dtype):
    net = fine_net(bn_splits=bn_splits, dtype=dtype)
    fast, clip = prepare_for_inference(net), draw_clip(2, 6, (65, 71), dtype=dtype)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(clip), net(clip), atol=TOLERANCE[dtype], rtol=0)
        torch.testing.assert_close(fast.features(clip), net.features(clip), atol=10 * TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("bn_splits", [1, 2])
@pytest.mark.parametrize("fusion", ["multistage", "per_stage", "none"])
@pytest.mark.parametrize("pool", ["grid", "avg", "max", "stride", "none"])
def test_coarse_stream(pool, fusion, bn_splits):
    net = coarse_net(pool=pool, fusion=fusion, bn_splits=bn_splits, dtype=torch.float64)
    fast, args = prepare_for_inference(net), coarse_inputs(dtype=torch.float64)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), net(*args), atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [fine_net, coarse_net])
@pytest.mark.parametrize("training", [True, False])
def test_the_original_is_left_as_it_was(make, training):
    net = make(bn_splits=2).train(training)
    net.head.eval()  # a network of mixed modes keeps them, too
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    strides = {name: tensor.stride() for name, tensor in net.state_dict().items()}
    prepare_for_inference(net)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert net.state_dict().keys() == state.keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.dtype == state[name].dtype
        assert tensor.stride() == strides[name]
    assert all(p.requires_grad for p in net.parameters())
    clip, *fine = coarse_inputs(valid=[9, 8])
    net.train()(clip, *(fine if make is coarse_net else ())).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_copy_is_apart_and_frozen():
    net = coarse_net()
    fast, args = prepare_for_inference(net), coarse_inputs()
    before = fast(*args)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert torch.equal(fast(*args), before)
    assert not any(module.training for module in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())


def test_norms_are_folded():
    fast = prepare_for_inference(coarse_net())
    assert not any("running_mean" in name for name in fast.state_dict())


def test_extreme_statistics_are_folded_in_double():
    """A tiny variance makes a gain of 300: rounding must stay that of single precision."""
    net = fine_net().eval()
    norm = net.backbone.stem.temporal.norm
    norm.running_var.fill_(1e-12)
    norm.running_mean.fill_(3.0)
    clip = draw_clip(1, 4)
    with torch.no_grad():
        torch.testing.assert_close(prepare_for_inference(net)(clip), net(clip), rtol=1e-4, atol=1e-3)
