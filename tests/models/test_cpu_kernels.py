"""The CPU's own operations equal PyTorch's, values and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import CoarseNet, FineNet, cpu_kernels
from models.cpu_kernels import CpuConv3d, CpuSubBatchNorm3d
from models.losses import detection_loss
from models.norm import SubBatchNorm3d
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, draw_fine

CONVOLUTIONS = {
    "1x1x1": {"kernel_size": 1},
    "1x1x1, bias": {"kernel_size": 1, "bias": True},
    "shortcut": {"kernel_size": 1, "stride": (1, 2, 2)},
    "stem over space": {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
    "stem over time": {"kernel_size": (5, 1, 1), "padding": (2, 0, 0), "groups": 6},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "depthwise, stride 2": {"kernel_size": 3, "stride": (1, 2, 2), "padding": 1, "groups": 6},
    "Grid Pool": {"kernel_size": 3, "stride": 2, "padding": 1, "bias": True},
    "Grid Pool's last": {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1), "bias": True},
}
SHAPES = [(2, 6, 5, 8, 8), (1, 6, 4, 7, 9), (2, 6, 1, 5, 6), (1, 6, 2, 1, 1), (3, 6, 7, 2, 3)]


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolution(kind, shape, memory_format):
    conv = CpuConv3d(6, 6, **{"bias": False, **CONVOLUTIONS[kind]}).double()
    x = drawn(*shape).contiguous(memory_format=memory_format)
    results = []
    for forward in (conv.forward, lambda x: nn.Conv3d.forward(conv, x)):
        leaf = x.clone().requires_grad_()
        conv.zero_grad()
        out = forward(leaf)
        out.backward(drawn(*out.shape, seed=1))
        results.append((out.detach(), leaf.grad, [p.grad.clone() for p in conv.parameters()]))
        with torch.no_grad():
            torch.testing.assert_close(forward(x), out)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("frozen", ["input", "weight"])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_of_frozen_parts(frozen, stride):
    conv = CpuConv3d(6, 6, 3, (1, stride, stride), 1, groups=6, bias=False).requires_grad_(frozen != "weight")
    x = drawn(2, 6, 5, 7, 8, dtype=torch.float32).requires_grad_(frozen != "input")
    conv(x).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert (conv.weight.grad is None) == (frozen == "weight")


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("size", [(2, 5, 8, 8), (1, 4, 7, 9), (3, 1, 1, 1), (2, 3, 1, 1), (1, 1, 2, 1)], ids=str)
def test_batch_norm(size, channels):
    shape = (size[0], channels, *size[1:])
    x, weight, bias = drawn(*shape) * 3 + 7, drawn(channels, seed=1) + 2, drawn(channels, seed=2)
    results = []
    for norm in (CpuSubBatchNorm3d(channels), SubBatchNorm3d(channels)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        mean, var = torch.full((channels,), 2.0).double(), torch.full((channels,), 3.0).double()
        out = norm.batch_norm(leaves[0], mean, var, *leaves[1:])
        out.backward(drawn(*shape, seed=3))
        results.append((out.detach(), mean, var, [leaf.grad for leaf in leaves]))
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)


def test_sums_keep_their_digits():
    """Of a large batch far from zero, in single precision: the case that PyTorch's sums over channels last lose."""
    rows = drawn(2**18 + 37, 4, dtype=torch.float32) + 100
    exact = rows.double().sum(0)
    assert ((cpu_kernels.column_sums(rows) - exact) / exact).abs().max() < 1e-7


def test_normalised_values_far_from_zero():
    x = drawn(4, 3, 8, 16, 16) * 0.1 + 100
    exact = F.batch_norm(x.float().double(), None, None, None, None, True)
    out = CpuSubBatchNorm3d(3)(x.float())
    assert (out.double() - exact).abs().max() < 2e-4  # a step of single precision at 100 is 8e-5 of 0.1


def test_a_training_step_equals_pytorchs():
    results = []
    for own in (True, False):
        net = coarse_net(bn_splits=2, dropout=0.0, dtype=torch.float64)
        if own:
            cpu_kernels.install(net)
        logits = net(*coarse_inputs(size=(65, 71), dtype=torch.float64))
        logits.square().mean().backward()
        results.append((logits.detach(), {name: p.grad for name, p in net.named_parameters()}, net.state_dict()))
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-6)


def gradient(net, clip, *fine, dtype):
    """The gradient of all parameters, one after the other, computed in `dtype`."""
    net = copy.deepcopy(net).to(dtype)
    labels = torch.arange(157 * 80).view(1, 157, 80) % 7 == 0
    mask = torch.ones(1, 80, dtype=dtype)
    loss = detection_loss(net(clip.to(dtype), *fine), labels, mask, align_corners=True)["loss"]
    loss.backward()
    return torch.cat([p.grad.double().flatten() for p in net.parameters()])


@pytest.mark.parametrize(("kind", "bound"), [("fine", 2e-2), ("coarse", 3e-2)])
def test_gradients_in_single_precision(kind, bound):
    """Of the real networks, whose fresh weights condition them badly: PyTorch in its default layout errs by about 1e-2,
    and with its own batch norm over channels-last memory by 2.6e-2 to 3.3e-2."""
    torch.manual_seed(2)
    net = (FineNet if kind == "fine" else CoarseNet)(dropout=0.0)
    cpu_kernels.install(net)
    clip, exact = draw_clip(1, 8, 224), None
    for dtype in (torch.float64, torch.float32):
        fine = ()
        if kind == "coarse":
            fine = (*draw_fine([24], variant="M", dtype=dtype), torch.tensor([2]))
        result = gradient(net, clip, *fine, dtype=dtype)
        exact = result if exact is None else exact
    assert (result - exact).norm() < bound * exact.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_applies(autocast):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert cpu_kernels.applies(torch.zeros(1)) != autocast
    assert not cpu_kernels.applies(torch.zeros(1, device="meta"))


def kinds(net):
    return {type(module) for module in net.modules()}


def test_installing_changes_modules_and_nothing_else():
    net, plain = coarse_net(bn_splits=2), coarse_net(bn_splits=2)
    cpu_kernels.install(net)
    own = set(cpu_kernels.ON_CPU.values())
    assert own <= kinds(net)
    assert not kinds(net) & cpu_kernels.ON_CPU.keys()
    assert not kinds(plain) & own
    assert [name for name, _ in net.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(net.state_dict()) == list(plain.state_dict())
    before = kinds(net)
    cpu_kernels.install(net)
    assert kinds(net) == kinds(copy.deepcopy(net)) == before


def test_installing_leaves_networks_on_other_devices_alone():
    with torch.device("meta"):
        net = FineNet(variant="tiny")
    cpu_kernels.install(net)
    assert not kinds(net) & set(cpu_kernels.ON_CPU.values())


def test_under_autocast_an_installed_network_computes_as_any_other():
    logits = []
    for own in (True, False):
        net = coarse_net(dropout=0.0)
        if own:
            cpu_kernels.install(net)
            net.backbone.stem.memory_format = torch.contiguous_format
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            logits.append(net(*coarse_inputs()))
    assert torch.equal(*logits)
