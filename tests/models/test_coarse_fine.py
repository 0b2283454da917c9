"""Both streams in one network: equal to the Coarse stream on the Fine one's features, trained or frozen."""

import pytest
import torch

from configs.schema import Coarse
from engine.step import make_optimizer
from models import CoarseFineNet, prepare_for_inference
from models.pooling import sampled_locations
from tests.models.drawing import coarse_net, draw_clip, fine_net

float64 = torch.float64


def both(*, fine_frozen=True, dtype=float64, **coarse):
    net = CoarseFineNet(fine=fine_net(seed=1), coarse=coarse_net(**coarse), fine_frozen=fine_frozen)
    return net.to(dtype)


def inputs(dtype=float64):
    """Clips of 5 frames and windows of 9, of which the second video fills 6."""
    fine_clip, mask = draw_clip(2, 9, seed=1, dtype=dtype), torch.ones(2, 9, dtype=dtype)
    mask[1, 6:] = 0
    fine_clip[1, :, 6:] = 0
    return draw_clip(2, 5, dtype=dtype), fine_clip, mask, torch.tensor([2, 0])


@pytest.mark.parametrize("coarse", [{}, {"fusion": "lateral", "pool": "stride"}], ids=["multistage", "lateral"])
@pytest.mark.parametrize("fine_frozen", [True, False])
def test_evaluation_equals_the_streams_apart(fine_frozen, coarse):
    net = both(fine_frozen=fine_frozen, **coarse).eval()
    clip, fine_clip, mask, start = inputs()
    with torch.no_grad():
        logits, fine_logits = net(clip, fine_clip, mask, start)
        assert torch.equal(logits, net.coarse(clip, net.fine.features(fine_clip), mask, start))
        assert torch.equal(fine_logits, net.fine(fine_clip))


def test_inference():
    net = both()
    fast, args = prepare_for_inference(net), inputs()
    assert not any("running_mean" in name for name in fine_names(fast) + list(fast.state_dict()))
    net.eval()
    with torch.no_grad(), sampled_locations(fast) as locations:
        for ours, theirs in zip(fast(*args), net(*args), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert len(locations) == 1


def fine_names(net):
    return [name for name in net.state_dict() if name.startswith("fine.")]


def step(net, *, weight):
    """One optimizer step on the sum of both outputs, the fine one weighted; the state before it."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    logits, fine_logits = net.train()(*inputs())
    (logits.square().mean() + weight * fine_logits.square().mean()).backward()
    make_optimizer(net, Coarse(), fusion_lr_factor=10.0).step()
    return before


def test_a_frozen_stream_stays_as_it_is():
    net = both()
    before = step(net, weight=1.0)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("fine.") for name in changed), "weights and running statistics"
    assert {name for name, _ in net.coarse.named_parameters()} == {
        name.removeprefix("coarse.") for name in changed if "running" not in name
    }
    assert not any(module.training for module in net.fine.modules())
    assert all(p.grad is None for p in net.fine.parameters())
    logits, fine_logits = net(*inputs())
    assert logits.requires_grad
    assert not fine_logits.requires_grad


def test_both_streams_are_trained_the_fine_one_through_the_features_too():
    net = both(fine_frozen=False, dropout=0.0)
    step(net, weight=0.0)
    grads = {name: p.grad.abs().max().item() for name, p in net.fine.named_parameters()}
    assert all(grad > 0 for name, grad in grads.items() if not name.startswith("head.")), "by the Coarse loss alone"
    assert all(grad == 0 for name, grad in grads.items() if name.startswith("head."))
    assert all(module.training for module in net.modules())
    net = both(fine_frozen=False)
    before = step(net, weight=1.0)
    unchanged = {name for name, tensor in net.state_dict().items() if torch.equal(tensor, before[name])}
    assert not unchanged


def test_fusion_alone_learns_faster():
    """Every fusion parameter, and no other, has `fusion` in its name, also within a network of both."""
    ordinary, fusion = make_optimizer(both(fine_frozen=False), Coarse(), fusion_lr_factor=10.0).param_groups
    net = coarse_net()
    fusing = sum(1 for name, _ in net.named_parameters() if "fusion" in name)
    assert (len(fusion["params"]), fusion["lr"]) == (fusing, 10 * ordinary["lr"])


def test_checkpointed_activations_give_equal_gradients():
    grads = []
    for checkpointed in (False, True):
        options = {"checkpoint_activations": checkpointed, "dropout": 0.0}
        fine, coarse = fine_net(seed=1, **options), coarse_net(**options)
        net = CoarseFineNet(fine=fine, coarse=coarse, fine_frozen=False).to(float64)
        sum(x.square().mean() for x in net(*inputs())).backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    torch.testing.assert_close(*grads, atol=1e-9, rtol=1e-9)


def test_what_does_not_go_together_is_refused():
    for coarse in ({"fusion": "none"}, {"variant": "S"}):
        with pytest.raises(ValueError, match="the same variant, and the Coarse stream needs a fusion"):
            both(**coarse)
