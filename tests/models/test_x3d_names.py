"""X3D's Kinetics checkpoints of PyTorchVideo and SlowFast: equal logits, the Kinetics rule, and every refusal."""

import pytest
import torch

from models import CoarseNet, FineNet, load_official, save_official
from models.x3d_names import NAMES
from tests.models.checkpoint_files import copied_state, refused, same_state
from tests.models.drawing import coarse_net, draw_clip, fine_net
from tests.models.slowfast_x3d import X3D

SIZE, FRAMES = 64, 3
WIDTHS = {  # as SlowFast's configurations give them
    "M": {"depths": (3, 5, 11, 7), "inner": (54, 108, 216, 432), "out": (24, 48, 96, 192), "se": (8, 8, 16, 32)},
    "XL": {"depths": (5, 10, 25, 15), "inner": (72, 162, 306, 630), "out": (32, 72, 136, 280), "se": (8, 16, 24, 40)},
    "tiny": {
        "depths": (1, 1, 2, 1), "inner": (24, 32, 64, 96), "out": (12, 16, 32, 48), "se": (8, 8, 8, 8), "hidden": 256,
    },
}  # fmt: skip
FACTORS = {"M": {"depth_factor": 2.2, "width_factor": 2.0}, "XL": {"depth_factor": 5.0, "width_factor": 2.9}}
NEUTRAL = {f"backbone.stages.0.0.shortcut.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")}


def pytorchvideo_x3d(variant):
    """PyTorchVideo's own network, whose head pools exactly clips of FRAMES frames and SIZE pixels."""
    x3d = pytest.importorskip("pytorchvideo.models.x3d", reason="pytorchvideo is absent: its X3D cannot be compared")
    return x3d.create_x3d(input_clip_length=FRAMES, input_crop_size=SIZE, head_activation=None, **FACTORS[variant])


def slowfast_x3d(variant):
    return X3D(**WIDTHS[variant])


BUILDERS = {"pytorchvideo": pytorchvideo_x3d, "slowfast": slowfast_x3d}
SMALLEST = {"pytorchvideo": "M", "slowfast": "tiny"}  # what the tests of the rules are made on
CLASSIFIER = {
    "pytorchvideo": {"blocks.5.proj.weight", "blocks.5.proj.bias"},
    "slowfast": {"head.projection.weight", "head.projection.bias"},
}


def with_drawn_weights(net, seed=0):
    """Every tensor drawn, gains, biases and running statistics too, such that activations stay of order 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_((0.3 * noise).exp())
        elif name.endswith("weight"):
            ends_a_branch = name.endswith(("norm_c.weight", "c_bn.weight"))
            tensor.copy_((0.2 if ends_a_branch else 1) * (1 + 0.3 * noise))
        else:
            tensor.copy_(0.2 * noise)
    return net.eval()


def set_to_zero(net):
    for tensor in net.state_dict().values():
        tensor.zero_()


def saved(net, path):
    torch.save({"model_state": net.state_dict(), "epoch": 300, "cfg": "a: text"}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """kind -> path of a checkpoint of its smallest variant, and its contents; made once."""
    folder, made = tmp_path_factory.mktemp("x3d"), {}

    def make(kind):
        if kind not in made:
            path = saved(with_drawn_weights(BUILDERS[kind](SMALLEST[kind])), folder / f"{kind}.pyth")
            made[kind] = path, torch.load(path, weights_only=True)["model_state"]
        return made[kind]

    return make


@pytest.mark.parametrize(("kind", "variant"), [("pytorchvideo", "M"), ("pytorchvideo", "XL"), ("slowfast", "M")])
def test_class_logits_are_equal(kind, variant, tmp_path):
    theirs = with_drawn_weights(BUILDERS[kind](variant), seed=1)
    ours = FineNet(num_classes=400, variant=variant, task="class").eval()
    report = load_official(ours, saved(theirs, tmp_path / "x3d.pyth"))
    clip = draw_clip(2, FRAMES, SIZE)
    with torch.no_grad():
        expected, logits = theirs(clip), ours(clip)
    assert logits.shape == (2, 400)
    assert expected.std() > 0.3
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert report.fresh == report.left == []
    assert set(report.neutral) == (NEUTRAL if kind == "pytorchvideo" else set())
    assert set(report.loaded) | set(report.neutral) == set(ours.state_dict())


@pytest.mark.parametrize("kind", BUILDERS)
class TestKineticsRule:
    def test_both_streams_start_from_it(self, kind, files):
        """All but the classifier, the fusion and Grid Pool comes from the file, alike for both."""
        nets = [make(variant=SMALLEST[kind], num_classes=5) for make in (FineNet, CoarseNet)]
        complete = FineNet(variant=SMALLEST[kind], num_classes=400)
        assert load_official(complete, files(kind)[0]).fresh == []
        for net in nets:
            before = copied_state(net)
            report = load_official(net, files(kind)[0])
            assert set(report.left) == CLASSIFIER[kind]
            for name, tensor in net.state_dict().items():
                is_new = name.startswith(("head.classify", "grid_pool")) or "fusion" in name
                assert (name in report.fresh) == is_new, name
                assert torch.equal(tensor, before[name] if is_new else complete.state_dict()[name]), name

    def test_bare_parallel_and_in_the_published_form(self, kind, files, tmp_path):
        path, state = files(kind)
        torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "bare.pyth")
        net = FineNet(variant=SMALLEST[kind], num_classes=400)
        load_official(net, path)
        expected = copied_state(net)
        save_official(net, tmp_path / "published.pt")
        for again in ("bare.pyth", "published.pt"):
            set_to_zero(net)
            load_official(net, tmp_path / again)
            assert same_state(net, expected)


class TestShortcutNorm:
    @pytest.fixture
    def net(self):
        return FineNet(num_classes=400)

    def test_a_file_that_has_it_is_believed(self, net, files, tmp_path):
        _, state = files("pytorchvideo")
        theirs = {f"blocks.1.res_blocks.0.branch1_norm.{name.rpartition('.')[2]}": name for name in NEUTRAL}
        torch.save({**state, **{key: torch.full((24,), 0.5) for key in theirs}}, tmp_path / "full.pyth")
        report = load_official(net, tmp_path / "full.pyth")
        assert report.neutral == []
        assert all((net.state_dict()[name] == 0.5).all() for name in theirs.values())

    def test_a_file_that_has_half_of_it_is_refused(self, net, files, tmp_path):
        _, state = files("pytorchvideo")
        key = "blocks.1.res_blocks.0.branch1_norm."
        torch.save({**state, f"{key}weight": torch.ones(24)}, tmp_path / "half.pyth")
        refused(net, tmp_path / "half.pyth", f"{key}bias", f"{key}running_mean")

    def test_other_stages_must_have_theirs(self, net, files, tmp_path):
        _, state = files("pytorchvideo")
        torch.save({k: v for k, v in state.items() if "2.res_blocks.0.branch1_norm" not in k}, tmp_path / "less.pyth")
        refused(net, tmp_path / "less.pyth", "blocks.2.res_blocks.0.branch1_norm.weight")


class TestRefusals:
    """By the names of the file, in SlowFast's form at tiny widths, and PyTorchVideo's."""

    @pytest.mark.parametrize(
        "key",
        [
            "s1.pathway0_stem.conv_xy.weight",
            "s1.pathway0_stem.bn.running_mean",
            "s4.pathway0_res1.branch2.b_bn.running_var",
            "s5.pathway0_res0.branch2.se.fc2.bias",
            "head.lin_5.weight",
        ],
    )
    @pytest.mark.parametrize("make", [fine_net, coarse_net])
    def test_missing(self, make, key, files, tmp_path):
        path, state = tmp_path / "x3d.pyth", files("slowfast")[1]
        torch.save({"model_state": {k: v for k, v in state.items() if k != key}}, path)
        refused(make(), path, f"network: missing {key}")

    @pytest.mark.parametrize("key", ["s2.pathway1_res0.branch2.a.weight", "head.lin_5_bn.weight", "bn1.weight"])
    def test_unknown(self, key, files, tmp_path):
        path, state = tmp_path / "x3d.pyth", files("slowfast")[1]
        torch.save({"model_state": state | {key: torch.zeros(3)}}, path)
        refused(fine_net(), path, f"not in the network {key}")

    def test_shape(self, files, tmp_path):
        path, state = tmp_path / "x3d.pyth", files("slowfast")[1]
        key = "s3.pathway0_res0.branch1.weight"
        torch.save({"model_state": state | {key: torch.zeros(16, 12)}}, path)
        refused(fine_net(), path, key, "(16, 12)")

    def test_another_number_of_classes(self, tmp_path):
        path = saved(X3D(**WIDTHS["tiny"], num_classes=600), tmp_path / "kinetics600.pyth")
        refused(fine_net(), path, "head.projection.weight", "(600, 256)", "(5, 256)")

    def test_another_variant(self, files):
        refused(FineNet(variant="S", num_classes=5), files("slowfast")[0], "s1.pathway0_stem.conv_xy.weight", "shape")

    def test_pytorchvideo(self, files, tmp_path):
        path, state, net = tmp_path / "x3d.pyth", files("pytorchvideo")[1], FineNet(num_classes=400)
        shortcut = "blocks.1.res_blocks.0.branch1_conv.weight"
        for key in ("blocks.0.conv.conv_t.weight", shortcut, "blocks.5.proj.bias"):
            torch.save({k: v for k, v in state.items() if k != key}, path)
            refused(net, path, f"network: missing {key}")
        torch.save(state | {shortcut: torch.zeros(())}, path)
        refused(net, path, shortcut)

    @pytest.mark.parametrize("contents", [{"model_state": None}, {"model_state": {"s1.pathway0_stem.bn.weight": 3}}])
    def test_another_form(self, contents, tmp_path):
        torch.save(contents, tmp_path / "x3d.pyth")
        refused(fine_net(), tmp_path / "x3d.pyth", "model_state")


def test_names_are_distinct():
    for column in zip(*NAMES.values(), strict=True):
        assert len(set(column)) == len(NAMES)


class TestClassTask:
    def test_the_mean_over_time_comes_before_the_head(self):
        net, clip = fine_net(task="class").eval(), draw_clip(2, 5)
        conv5 = net.features(clip)["conv5"]  # 2x2 positions spread to 7x7: their mean is the same
        expected = net.head(conv5.mean((2, 3, 4), keepdim=True)).squeeze(2)
        torch.testing.assert_close(net(clip), expected)
        assert (net(clip) - fine_net().eval()(clip).mean(2)).abs().max() > 1e-3

    def test_one_frame(self):
        clip = draw_clip(2, 1)
        torch.testing.assert_close(fine_net(task="class").eval()(clip), fine_net().eval()(clip)[:, :, 0])

    def test_unknown(self):
        with pytest.raises(ValueError, match="detect"):
            FineNet(task="classify", variant="tiny")
