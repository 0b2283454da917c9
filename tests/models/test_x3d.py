"""The X3D backbone and the Fine stream: sizes, initialisation, dropout, biases."""

import math

import pytest
import torch
from torch import nn

from models import CoarseNet, FineNet, cpu_kernels
from models.official import official_name
from models.x3d import VARIANTS, squeeze_width
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net
from tests.models.reference import Reference

WIDTHS = {"S": (24, 48, 96, 192, 432), "M": (24, 48, 96, 192, 432), "XL": (32, 72, 136, 280, 630)}
LEVELS = ("layer1", "layer2", "layer3", "layer4", "conv5")


@pytest.mark.parametrize(
    ("channels", "width"),
    [(54, 8), (108, 8), (216, 16), (432, 32), (72, 8), (162, 16), (306, 24), (630, 40), (24, 8), (142, 8), (143, 16)],
)
def test_squeeze_width(channels, width):
    assert squeeze_width(channels) == width


@pytest.mark.parametrize("variant", ["S", "M", "XL"])
def test_published_variants(variant):
    net = FineNet(variant=variant, num_classes=9).eval()
    assert net.variant.size == {"S": 160, "M": 224, "XL": 312}[variant]
    with torch.no_grad():
        clip = draw_clip(1, 4)
        assert net(clip).shape == (1, 9, 4)
        shapes = {name: f.shape for name, f in net.features(clip).items()}
    assert shapes == {name: (1, c, 4, 7, 7) for name, c in zip(LEVELS, WIDTHS[variant], strict=True)}
    assert VARIANTS[variant].feature_channels == dict(zip(LEVELS, WIDTHS[variant], strict=True))


@pytest.mark.parametrize(("variant", "depths"), [("S", (3, 5, 11, 7)), ("XL", (5, 10, 25, 15))])
def test_depths_and_squeezed_blocks(variant, depths):
    names = {official_name(name) for name in FineNet(variant=variant).state_dict()}
    for stage, depth in enumerate(depths, 1):
        blocks = {int(n.split(".")[1]) for n in names if n.startswith(f"layer{stage}.")}
        squeezed = {int(n.split(".")[1]) for n in names if n.startswith(f"layer{stage}.") and ".fc1." in n}
        shortened = {int(n.split(".")[1]) for n in names if n.startswith(f"layer{stage}.") and ".downsample." in n}
        assert blocks == set(range(depth))
        assert squeezed == set(range(0, depth, 2))
        assert shortened == {0}


def test_xl_coarse_stream_fuses():
    """The published code fixes 360 fused channels; XL has 520."""
    net = CoarseNet(variant="XL", num_classes=3).eval()
    features = {name: torch.rand(1, c, 5, 7, 7) for name, c in net.variant.feature_channels.items()}
    with torch.no_grad():
        logits = net(draw_clip(1, 4), features, torch.ones(1, 5), torch.zeros(1, dtype=torch.int64))
    assert logits.shape == (1, 3, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("frames", range(1, 10))
def test_any_number_of_frames(frames):
    with torch.no_grad():
        assert fine_net().eval()(draw_clip(1, frames)).shape == (1, 5, frames)
        coarse = coarse_net().eval()(*coarse_inputs(frames=frames, valid=[7]))
    assert coarse.shape == (1, 5, 4 * math.ceil(frames / 4))
    assert coarse.isfinite().all()


@pytest.mark.parametrize("size", [(64, 64), (65, 71), (70, 97), (101, 64)])
def test_any_height_and_width(size):
    net = fine_net(dtype=torch.float64).eval()
    clip = draw_clip(2, 4, size, dtype=torch.float64)
    logits, features = Reference(net).fine(clip)
    with torch.no_grad():
        torch.testing.assert_close(net(clip), logits)
        for name, feature in net.features(clip).items():
            torch.testing.assert_close(feature, features[name])


def test_sub_batch_statistics_in_evaluation():
    net = fine_net(bn_splits=3, dtype=torch.float64).eval()
    clip = draw_clip(1, 5, dtype=torch.float64)
    torch.testing.assert_close(net(clip), Reference(net).fine(clip)[0])


@pytest.mark.parametrize("make", [fine_net, coarse_net])
def test_a_batch_equals_single_videos(make):
    net = make(dtype=torch.float64).eval()
    clip, *fine = coarse_inputs(valid=[9, 9, 9], start=[0, 2, 4], dtype=torch.float64)
    features, mask, start = fine
    with torch.no_grad():
        together = net(clip, *fine) if make is coarse_net else net(clip)
        for b in range(3):
            one = slice(b, b + 1)
            own = ({name: f[one] for name, f in features.items()}, mask[one], start[one])
            alone = net(clip[one], *own) if make is coarse_net else net(clip[one])
            torch.testing.assert_close(together[one], alone)


@pytest.mark.parametrize("make", [fine_net, coarse_net])
def test_a_single_video_trains(make):
    net = make()
    clip, *fine = coarse_inputs(valid=[9])
    logits = net(clip, *fine) if make is coarse_net else net(clip)
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_inputs_are_left_alone(training):
    clip, *fine = coarse_inputs()
    features, mask, start = fine
    copies = clip.clone(), {name: f.clone() for name, f in features.items()}, mask.clone(), start.clone()
    fine_net().train(training)(clip)
    coarse_net().train(training)(clip, *fine)
    assert torch.equal(clip, copies[0])
    assert all(torch.equal(f, copies[1][name]) for name, f in features.items())
    assert torch.equal(mask, copies[2])
    assert torch.equal(start, copies[3])


@pytest.mark.parametrize("options", [{"pool": "sum"}, {"fusion": "late"}])
def test_unknown_choices_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        CoarseNet(variant="tiny", **options)


def test_only_squeeze_excitation_and_grid_pool_have_conv_biases():
    net = CoarseNet(variant="M")
    convs = {official_name(f"{name}.bias"): m for name, m in net.named_modules() if isinstance(m, nn.Conv3d)}
    biased = {name.removesuffix(".bias") for name, conv in convs.items() if conv.bias is not None}
    expected = {f"pool_1.conv{i}" for i in (1, 2, 3)}
    expected |= {
        f"layer{stage}.{block}.{fc}"
        for stage, depth in enumerate((3, 5, 11, 7), 1)
        for block in range(0, depth, 2)
        for fc in ("fc1", "fc2")
    }
    assert biased == expected


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CoarseNet(variant="M")


class TestInitialisation:
    """Conv3d: Kaiming normal, fan out, ReLU; everything else as PyTorch makes it."""

    def test_conv_weights(self, net):
        standard = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv3d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                standard[name] = (module.weight.detach() / math.sqrt(2 / fan_out)).flatten()
        for name, w in standard.items():
            n = len(w)
            assert abs(w.mean()) < 5 / math.sqrt(n), name
            assert abs(w.std() - 1) < 5 / math.sqrt(2 * n), name
        pooled = torch.cat(list(standard.values()))
        assert pooled.pow(4).mean() == pytest.approx(3, rel=0.02)  # normal; a uniform one has 1.8

    def test_linear_weights(self, net):
        for name, module in net.named_modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                w, n = module.weight.detach(), module.weight.numel()
                assert w.abs().max() <= bound, name
                assert abs(w.std() * math.sqrt(3) / bound - 1) < 3 / math.sqrt(n), name

    def test_biases(self, net):
        count = 0
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                b = module.bias.detach()
                assert b.abs().max() <= bound, name
                assert b.abs().max() > 0, name
                count += 1
        assert count > 60

    def test_norms(self, net):
        for name, value in net.state_dict().items():
            if ".norm" in name:
                identity = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                assert (value == identity).all(), name


class TestDropout:
    """At the head, and in both networks of the logit fusion with draws of their own; nowhere else."""

    @staticmethod
    def record(net):
        seen = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(
                    lambda module, args, out, name=name: seen.update({name: (module.p, args[0], out)})
                )
        return seen

    def test_fine_stream(self):
        net = fine_net(dropout=0.3)
        seen = self.record(net)
        net(draw_clip(2, 6))
        ((p, before, after),) = seen.values()
        assert p == 0.3
        assert before.shape[-1] == net.variant.hidden
        assert (before >= 0).all()  # after the ReLU
        assert (after[before > 0] == 0).float().mean() == pytest.approx(0.3, abs=0.1)

    def test_default_rate(self):
        assert {m.p for net in (FineNet(), CoarseNet()) for m in net.modules() if isinstance(m, nn.Dropout)} == {0.5}

    @pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
    def test_coarse_stream(self, fusion):
        net = coarse_net(dropout=0.3, fusion=fusion)
        seen = self.record(net)
        net(*coarse_inputs(frames=20))
        assert sorted(name.split(".")[0] for name in seen) == ["head", "logit_fusion", "logit_fusion"]
        widths = {"head": net.variant.hidden, "logit_fusion": net.variant.conv5}
        for name, (p, before, after) in seen.items():
            assert p == 0.3
            assert before.shape[-1] == widths[name.split(".")[0]]
            assert (before >= 0).all()
            assert (after[before > 0] == 0).float().mean() == pytest.approx(0.3, abs=0.1)

    def test_draws_are_independent(self):
        net = coarse_net()
        net.logit_fusion.scale.load_state_dict(net.logit_fusion.shift.state_dict())
        seen = self.record(net)
        net(*coarse_inputs(frames=20))
        first, second = (seen[name] for name in seen if name.startswith("logit_fusion"))
        torch.testing.assert_close(first[1], second[1])
        dropped = [after[before > 0] == 0 for _, before, after in (first, second)]
        assert (dropped[0] != dropped[1]).float().mean() == pytest.approx(0.5, abs=0.1)

    def test_none_without_fusion(self):
        assert sum(isinstance(m, nn.Dropout) for m in coarse_net(fusion="none").modules()) == 1

    def test_off_in_evaluation(self):
        net, args = coarse_net().eval(), coarse_inputs()
        assert torch.equal(net(*args), net(*args))


def test_fusion_parameters_are_named_so():
    """The learning rate's factor of 10 goes by this name."""
    theirs = {name: official_name(name).startswith(("rw", "mix")) for name, _ in coarse_net().named_parameters()}
    assert all(("fusion" in name) == fuses for name, fuses in theirs.items())
    assert any(theirs.values())
    assert not any("fusion" in name for name, _ in fine_net().named_parameters())


class TestActivationCheckpointing:
    """Computing activations again in the backward pass changes memory and time, and nothing else."""

    @pytest.mark.parametrize("make", [fine_net, coarse_net])
    @pytest.mark.parametrize("bn_splits", [1, 2])
    def test_training_is_equal(self, make, bn_splits):
        results = []
        for checkpoint_activations in (False, True):
            net = make(
                bn_splits=bn_splits, checkpoint_activations=checkpoint_activations, dropout=0.0, dtype=torch.float64
            )
            clip, *fine = coarse_inputs(dtype=torch.float64)
            for _ in range(2):
                logits = net(clip, *fine) if make is coarse_net else net(clip)
                logits.square().mean().backward()
            grads = {name: p.grad for name, p in net.named_parameters()}
            results.append((logits.detach(), grads, net.state_dict()))
        torch.testing.assert_close(*results)

    def test_fewer_activations_are_kept(self):
        kept = []
        for checkpoint_activations in (False, True):
            net, sizes = fine_net(checkpoint_activations=checkpoint_activations), {}
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, sizes=sizes: sizes.update({x.data_ptr(): x.numel()}) or x, lambda x: x
            ):
                net(draw_clip(2, 8))
            kept.append(sum(sizes.values()))
        assert kept[1] < 0.7 * kept[0]

    def test_evaluation_is_equal(self):
        clip = draw_clip(1, 5)
        nets = [fine_net(checkpoint_activations=c).eval() for c in (False, True)]
        assert torch.equal(nets[0](clip), nets[1](clip))
        assert nets[0].state_dict().keys() == nets[1].state_dict().keys()


@pytest.mark.parametrize("way", ["plain", "CPU's own", "autocast"])
def test_checkpointing_by_every_way(way):
    """PyTorch's operations, the CPU's own, and autocast: equal gradients and statistics."""
    torch.manual_seed(0)
    nets = [FineNet(num_classes=3, variant="tiny", dropout=0.0, checkpoint_activations=c) for c in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    if way != "plain":
        for net in nets:
            cpu_kernels.install(net)
    clip = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.backends.mkldnn.flags(enabled=way != "autocast"):  # oneDNN's bfloat16 does not repeat itself
        for net in nets:
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
                logits = net(clip)
            logits.float().square().mean().backward()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("installed", [False, True])
def test_a_compiled_step_equals_an_eager_one(installed):
    torch.manual_seed(0)
    nets = [FineNet(num_classes=3, variant="tiny", dropout=0.0) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    if installed:
        for net in nets:
            cpu_kernels.install(net)
    nets[1].compile(backend="aot_eager")  # traces as the default does, without a compiler of C++
    clip = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    for net in nets:
        net(clip).square().mean().backward()
    gradients = [torch.cat([p.grad.flatten() for p in net.parameters()]) for net in nets]
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[0].norm()
