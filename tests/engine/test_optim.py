"""The optimiser and its schedule: what the golden cases (one step without decay or momentum in effect) do not show."""

import pytest
import torch
from torch import nn

from configs.schema import Coarse, Fine
from engine.step import make_optimizer, make_scheduler
from models import CoarseNet, FineNet
from models.official import official_name


def names_by_group(net, optimizer):
    names = {p: name for name, p in net.named_parameters()}
    return [[names[p] for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
def test_fusion_layers_alone_learn_faster(fusion):
    net = CoarseNet(num_classes=3, variant="tiny", fusion=fusion)
    optimizer = make_optimizer(net, Coarse(), fusion_lr_factor=10.0)
    slow, fast = names_by_group(net, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, pytest.approx(0.2)]
    assert sorted(slow + fast) == sorted(name for name, _ in net.named_parameters())
    assert set(fast) == {n for n, _ in net.named_parameters() if official_name(n).startswith(("rw", "mix"))}
    assert any(official_name(n).startswith("rw6") for n in fast), "the fusion at the logits"
    assert any(n.startswith("grid_pool") for n in slow)


@pytest.mark.parametrize(("build", "options"), [(FineNet, {}), (CoarseNet, {"fusion": "none"})])
def test_without_fusion_one_rate_for_all(build, options):
    net = build(num_classes=3, variant="tiny", **options)
    optimizer = make_optimizer(net, Fine(), fusion_lr_factor=10.0)
    (names,) = names_by_group(net, optimizer)
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    (names,) = names_by_group(net, make_optimizer(net, Fine()))
    assert names == ["1.weight", "1.bias"]


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.norm = nn.BatchNorm1d(2, dtype=torch.float64)
        self.fusion_bias = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))


def test_momentum_and_decay_in_closed_form():
    """v <- m v + g + d p, p <- p - lr v: plain momentum, neither damped nor Nesterov's, decay on every parameter."""
    lr, m, d, factor = 0.1, 0.9, 0.05, 10.0
    net = Fused()
    stage = Coarse(lr=lr, momentum=m, weight_decay=d)
    optimizer = make_optimizer(net, stage, fusion_lr_factor=factor)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(6):
        for name, p in net.named_parameters():
            p.grad = torch.full_like(p, 0.3 - 0.1 * step)
            velocity[name] = m * velocity[name] + p.grad + d * expected[name]
            expected[name] = expected[name] - lr * (factor if "fusion" in name else 1) * velocity[name]
        optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-12, atol=0, msg=name)


def test_decay_alone_moves_norms_and_biases():
    net = Fused()
    optimizer = make_optimizer(net, Coarse(weight_decay=0.5))
    before = net.norm.weight.detach().clone()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (net.norm.weight.abs() < before.abs()).all()
    assert net.fusion_bias.item() < 0.5


@pytest.mark.parametrize(("stage", "milestones"), [(Fine(), [15, 20, 25]), (Coarse(), [15, 25, 35])])
def test_published_schedule(stage, milestones):
    """Round r (from 1) is trained at a tenth of the rate for each milestone below r; both groups alike."""
    optimizer = make_optimizer(Fused(), stage, fusion_lr_factor=10.0)
    scheduler = make_scheduler(optimizer, stage)
    for done in range(40):
        lr = stage.lr * 0.1 ** sum(done >= milestone for milestone in milestones)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr, 10 * lr], rel=1e-12)
        optimizer.step()
        scheduler.step()
