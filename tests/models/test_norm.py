"""Sub-batch normalisation: which samples share statistics, and which statistics evaluation uses."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from models.norm import SubBatchNorm3d, aggregate_statistics
from tests.models.drawing import coarse_inputs, coarse_net

C = 3


def drawn_norm(splits=1):
    norm = SubBatchNorm3d(C, splits=splits)
    generator = torch.Generator().manual_seed(splits)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(C, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(C, generator=generator))
        norm.running_mean.copy_(torch.randn(splits * C, generator=generator))
        norm.running_var.copy_(torch.rand(splits * C, generator=generator) + 0.5)
    return norm.double()


def batch(size, seed=0):
    """Samples of clearly different mean and spread."""
    x = torch.randn(size, C, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    level = torch.arange(1, size + 1, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    return x * level + level


def test_one_group_is_torch_batch_norm():
    ours, theirs = drawn_norm(), nn.BatchNorm3d(C).double()
    theirs.load_state_dict({**ours.state_dict(), "num_batches_tracked": torch.zeros((), dtype=torch.int64)})
    for step in range(3):
        x, y = batch(4, step).requires_grad_(), batch(4, step).requires_grad_()
        out, expected = ours(x), theirs(y)
        torch.testing.assert_close(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], msg=name)
    for ours_grad, theirs_grad in ((ours.weight.grad, theirs.weight.grad), (ours.bias.grad, theirs.bias.grad)):
        torch.testing.assert_close(ours_grad, theirs_grad)
    torch.testing.assert_close(ours.eval()(batch(2, 9)), theirs.eval()(batch(2, 9)))


@pytest.mark.parametrize("splits", [2, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_groups_interleave_the_batch(splits, memory_format):
    norm, x = drawn_norm(splits), batch(6)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    out = norm(x.contiguous(memory_format=memory_format))
    assert out.shape == x.shape
    for g in range(splits):
        members = x[g::splits]
        alone = F.batch_norm(members, None, None, norm.weight, norm.bias, True)
        torch.testing.assert_close(out[g::splits], alone)
        rows = slice(g * C, (g + 1) * C)  # group-major
        for name, now in (("mean", members.mean((0, 2, 3, 4))), ("var", members.transpose(0, 1).flatten(1).var(1))):
            expected = 0.9 * before[f"running_{name}"][rows] + 0.1 * now
            torch.testing.assert_close(getattr(norm, f"running_{name}")[rows], expected)


def test_one_weight_and_bias_learn_from_all_groups():
    norm, x = drawn_norm(2), batch(4)
    norm(x).square().sum().backward()
    grads = []
    for g in range(2):
        alone = drawn_norm(2)
        F.batch_norm(x[g::2], None, None, alone.weight, alone.bias, True).square().sum().backward()
        grads.append((alone.weight.grad, alone.bias.grad))
    torch.testing.assert_close(norm.weight.grad, grads[0][0] + grads[1][0])
    torch.testing.assert_close(norm.bias.grad, grads[0][1] + grads[1][1])


def test_aggregate_is_mean_and_variance_of_the_union():
    groups = torch.randn(4, 1000, C, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) + 5
    mean, var = aggregate_statistics(groups.mean(1), groups.var(1, unbiased=False))
    torch.testing.assert_close(mean, groups.flatten(0, 1).mean(0))
    torch.testing.assert_close(var, groups.flatten(0, 1).var(0, unbiased=False))


def test_aggregate_by_hand():
    mean, var = aggregate_statistics(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([[0.5], [1.0], [1.5]]))
    assert mean.item() == 4.0
    assert var.item() == pytest.approx(1.0 + (9 + 1 + 16) / 3)


def test_evaluation_uses_the_aggregate_for_any_batch_and_changes_nothing():
    norm = drawn_norm(2).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    means, variances = norm.running_mean.view(2, C), norm.running_var.view(2, C)
    mean = (means[0] + means[1]) / 2
    var = (variances[0] + variances[1]) / 2 + ((means[0] - means[1]) / 2) ** 2
    x = batch(3)  # not divisible by 2: no matter in evaluation
    expected = (x.movedim(1, -1) - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected.movedim(-1, 1))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_indivisible_batch():
    with pytest.raises(ValueError, match=r"batch of 5.*bn_splits=2"):
        drawn_norm(2)(batch(5))


@pytest.mark.parametrize(("stored", "wanted"), [(2, 1), (1, 2), (3, 2), (2, 4)])
def test_statistics_of_another_group_count_are_aggregated_then_repeated(stored, wanted):
    source, norm = drawn_norm(stored), drawn_norm(wanted)
    state = source.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    norm.load_state_dict(state)
    mean, var = aggregate_statistics(source.running_mean.view(stored, C), source.running_var.view(stored, C))
    torch.testing.assert_close(norm.running_mean, mean.repeat(wanted))
    torch.testing.assert_close(norm.running_var, var.repeat(wanted))
    torch.testing.assert_close(norm.eval()(batch(2)), source.eval()(batch(2)))
    assert all(torch.equal(state[name], value) for name, value in before.items())  # the source is left alone


def test_statistics_of_the_same_group_count_are_kept_apart():
    source, norm = drawn_norm(2), SubBatchNorm3d(C, splits=2).double()
    norm.load_state_dict(source.state_dict())
    assert torch.equal(norm.running_mean, source.running_mean)
    assert torch.equal(norm.running_var, source.running_var)


def test_statistics_of_another_width_are_refused():
    state = {**drawn_norm(2).state_dict(), "running_mean": torch.zeros(4)}
    with pytest.raises(RuntimeError, match="running_mean"):
        drawn_norm(2).load_state_dict(state)


@pytest.mark.parametrize("fusion", ["multistage", "none"])
def test_coarse_stream_splits_its_batch(fusion):
    """Videos (a,b,c,d) under two groups equal (a,c) and (b,d) alone; a plain pool shares nothing between them."""
    options = {"pool": "stride", "fusion": fusion, "dropout": 0.0, "dtype": torch.float64}
    clip, features, mask, start = coarse_inputs(valid=[9, 7, 8, 6], dtype=torch.float64)
    both = coarse_net(bn_splits=2, **options)(clip, features, mask, start)
    for g in range(2):
        group = {name: f[g::2] for name, f in features.items()}
        alone = coarse_net(**options)(clip[g::2], group, mask[g::2], start[g::2])
        torch.testing.assert_close(both[g::2], alone)


def test_grid_pool_keeps_one_group():
    net = coarse_net(bn_splits=2, dtype=torch.float64)
    pooled = net.grid_pool.state_dict()
    assert pooled["norm1.running_mean"].shape == pooled["norm1.weight"].shape
    assert pooled["norm2.running_var"].shape == pooled["norm2.weight"].shape
    seen = []
    net.grid_pool.conv1.register_forward_hook(lambda _, args, out: seen.append(out.mean((0, 2, 3, 4))))
    before = net.grid_pool.norm1.running_mean.clone()
    net(*coarse_inputs(valid=[9, 7], dtype=torch.float64))
    torch.testing.assert_close(net.grid_pool.norm1.running_mean, 0.9 * before + 0.1 * seen[0])


def test_other_norms_have_all_groups():
    state = coarse_net(bn_splits=2).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            groups = 1 if name.startswith("grid_pool") else 2
            assert len(value) == groups * len(state[name.replace("running_mean", "weight")]), name


# --- over several processes -------------------------------------------------------------------------------------------


@pytest.fixture
def a_group():
    """torch.distributed with this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_synchronised_norm_is_batch_norm(a_group):
    """The formula and its gradient; that two processes equal one is shown in tests/faults/test_processes.py."""
    results = []
    for over_processes in (False, True):
        theirs = drawn_norm()
        x = batch(4).requires_grad_()
        mean, var = theirs.running_mean, theirs.running_var
        if over_processes:
            out = theirs.batch_norm_over_processes(x, mean, var)
        else:
            out = F.batch_norm(x, mean, var, theirs.weight, theirs.bias, True, 0.1, 1e-5)
        (out**3).sum().backward()
        results.append((out.detach(), x.grad, theirs.weight.grad, theirs.bias.grad, theirs.state_dict()))
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)


def test_a_synchronised_norm_has_one_group():
    with pytest.raises(ValueError, match="one group"):
        SubBatchNorm3d(3, splits=2, synchronised=True)
