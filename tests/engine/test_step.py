"""One optimizer step on a toy network: precision, clipping, parts of a batch, compiling.

Then the optimizer and its schedule: what the golden cases (one step without decay or momentum in effect) do not show.
"""

import shutil

import pytest
import torch
from torch import nn

from configs.schema import Coarse, Fine
from datasets.batch import prepare
from engine.checkpoint import read_checkpoint
from engine.step import make_optimizer, make_scheduler
from models import CoarseNet, FineNet
from models.official import official_name
from tests.engine.toy import CPU, ToyLoader, lines, make_trainer


def test_half_precision_by_autocast(tmp_path):
    """Weights, gradients and losses stay float32; what the convolutions compute is half."""
    trainer = make_trainer(tmp_path, epochs=1, precision="bf16")
    seen = []
    trainer.net.layers[0].register_forward_hook(lambda net, args, output: seen.append(output.dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.net.parameters()} == {torch.float32}
    full = make_trainer(tmp_path / "full", epochs=1)
    full.run()
    for a, b in zip(lines(tmp_path, "train"), lines(tmp_path / "full", "train"), strict=True):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)


def test_fp16_scales_and_continues(tmp_path):
    """The scaler's state is in the checkpoint; a run without it continues one with it, and the reverse."""
    trainer = make_trainer(tmp_path, max_steps=3, precision="fp16")
    trainer.run()
    assert trainer.step.scaler.is_enabled()
    saved = read_checkpoint(trainer.last)["scaler"]
    assert saved["_growth_tracker"] == 3
    resumed = make_trainer(tmp_path, precision="fp16")
    resumed.resume()
    assert resumed.step.scaler.state_dict() == saved
    make_trainer(tmp_path).resume()


def test_clipped_gradients(tmp_path):
    """Of all parameters together, to the given norm; unclipped where they are smaller."""
    norms = {}
    for limit in (None, 1e-3, 1e3):
        trainer = make_trainer(tmp_path / str(limit), max_steps=1, clip_grad=limit)
        trainer.run()
        norms[limit] = torch.cat([p.grad.flatten() for p in trainer.net.parameters()]).norm().item()
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1e3] == norms[None] > 1e-3


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulated_gradients_equal_the_undivided_batch(tmp_path, parts):
    """Without norms and dropout, with masks of several lengths."""
    loader = ToyLoader(batch_size=6)
    batch = loader.collate([(0, i) for i in range(6)])
    for i in range(6):
        batch["mask"][i, 1 + i :] = 0
    gradients = []
    for accumulate in (1, parts):
        trainer = make_trainer(tmp_path, accumulate=accumulate, loader=loader)
        trainer.net.eval()
        losses, _ = trainer.step.gradients(prepare(batch, CPU))
        gradients.append([losses, *(p.grad for p in trainer.net.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(tmp_path):
    """The same training to rounding, and the same names in the checkpoint."""
    plain, compiled = make_trainer(tmp_path / "plain", max_steps=2), make_trainer(tmp_path / "compiled", max_steps=2)
    plain.net.layers[3].p = compiled.net.layers[3].p = 0.0
    compiled.net.compile()
    for trainer in (plain, compiled):
        trainer.run()
    ours, theirs = (read_checkpoint(trainer.last)["model"] for trainer in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


# --- optimizer and schedule -------------------------------------------------------------------------------------------


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
