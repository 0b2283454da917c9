"""What Gaussians and Multi-stage Fusion are compared with: uniform weights, other widths, lateral connections."""

import math

import pytest
import torch

from models import CheckpointError, CoarseNet, load_official, prepare_for_inference, save_official
from models.alignment import gaussian_weights, uniform_weights, window_weights
from models.fusion import AlignedLevel
from models.lateral import Concatenation, masked_mean
from tests.models.drawing import coarse_inputs, coarse_net, draw_fine

float64 = torch.float64


def recorded_weights(net, args):
    """The weights w (B,T',J) that the fusion of `net` is given."""
    seen = []
    net.fusion.register_forward_hook(lambda _, given, out: seen.append(given[2]))
    net(*args)
    return seen[0]


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1 / 4, 1 / 8, 1 / 16])
def test_sigma_scales(scale):
    """Valid frames 16 and sigma 16 * scale: one sigma from the centre the weight is exp(-1/2)."""
    weights = gaussian_weights(torch.tensor([[4.0]], dtype=float64), torch.ones(1, 16, dtype=float64), scale=scale)
    assert weights[0, 4 + int(16 * scale), 0].item() == pytest.approx(math.exp(-1 / 2))


def test_a_network_hands_its_scale_to_the_gaussians():
    args = coarse_inputs(valid=[16], dtype=float64)
    narrow, wide = (recorded_weights(coarse_net(gaussian_scale=s, dtype=float64).eval(), args) for s in (1 / 8, 1 / 4))
    torch.testing.assert_close(wide, narrow ** (1 / 4), atol=1e-9, rtol=0, msg="twice the sigma: a quarter of the log")


def test_uniform_weights_give_the_filtered_mean_of_all_valid_frames():
    features, mask = draw_fine([9, 5], dtype=float64)
    level = AlignedLevel(16, 16).to(float64)
    weights = uniform_weights(torch.zeros(2, 3, dtype=float64), mask)
    assert weights.shape == (2, 9, 3)
    assert (weights == 1).all()
    torch.nn.init.zeros_(level.attention[3].weight)  # a(t) is one number: nothing is filtered
    aligned = level.align(features["layer2"], mask, weights)
    for b, valid in enumerate((9, 5)):
        expected = features["layer2"][b, :, :valid].mean(1).flatten(1).T  # (49,C)
        torch.testing.assert_close(aligned[b], expected.expand(3, -1, -1), atol=1e-5, rtol=0)


def test_with_uniform_weights_a_clips_place_in_the_video_does_not_matter():
    net = coarse_net(alignment="uniform").eval()
    clip, features, mask, start = coarse_inputs()
    assert torch.equal(net(clip, features, mask, start + 5), net(clip, features, mask, start))
    assert not torch.equal(net(clip, features, mask, start), coarse_net().eval()(clip, features, mask, start))


def test_windows():
    centres = torch.tensor([[0.0, 4.0, 8.5, 40.0]])
    weights = window_weights(centres, torch.ones(1, 12), reach=2.0)[0].T
    expected = [[0, 1, 2], [2, 3, 4, 5, 6], [7, 8, 9, 10], []]
    assert [row.nonzero().flatten().tolist() for row in weights] == expected


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"alignment must be one of .*'uniform'.* not 'even'"):
        CoarseNet(variant="tiny", alignment="even")


# --- lateral connections ----------------------------------------------------------------------------------------------


def test_means_of_the_frames_around_each_coarse_frame():
    features, mask = draw_fine([11, 4], dtype=float64)
    f = features["layer1"]
    weights = window_weights(torch.tensor([[0.0, 4, 8]] * 2, dtype=float64), mask, reach=2.0)
    means = masked_mean(f, mask, weights)
    for b, rows in enumerate([[slice(0, 3), slice(2, 7), slice(6, 11)], [slice(0, 3), slice(2, 4), None]]):
        for j, frames in enumerate(rows):
            expected = torch.zeros(49, 12, dtype=float64) if frames is None else f[b, :, frames].mean(1).flatten(1).T
            torch.testing.assert_close(means[b, j], expected)


@pytest.mark.parametrize("size", [(14, 7), (5, 9)])
def test_equals_a_convolution_of_the_concatenation(size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 3, *size, generator=generator, dtype=float64)
    grid = torch.randn(2, 3, 49, 4, generator=generator, dtype=float64)
    net = Concatenation(6, 4).to(float64)
    torch.nn.init.normal_(net.own.weight)
    square = grid.unflatten(2, (7, 7)).permute(0, 4, 1, 2, 3)  # (B,C_l,J,7,7)
    resized = torch.nn.functional.adaptive_max_pool3d(square, (3, *size))
    together = torch.cat([x, resized], 1)
    weight = torch.cat([net.own.weight, net.grid.weight], 1)[:, :, None, None, None]
    expected = torch.nn.functional.conv3d(together, weight, net.grid.bias)
    torch.testing.assert_close(net(x, grid), expected)


def test_projections_begin_with_the_stage_as_it_is():
    x, grid = torch.randn(1, 6, 2, 7, 7), torch.zeros(1, 2, 49, 4)
    net = Concatenation(6, 4)
    torch.testing.assert_close(net(x, grid), x + net.grid.bias.view(-1, 1, 1, 1))


class TestLateralNetwork:
    @pytest.mark.parametrize("pool", ["grid", "stride"])
    def test_its_parameters(self, pool):
        names = [name for name, _ in coarse_net(pool=pool, fusion="lateral").named_parameters()]
        without = [name for name, _ in coarse_net(pool=pool, fusion="none").named_parameters()]
        assert [name for name in names if "fusion" not in name] == without
        assert len(names) - len(without) == 4 * 3, "at four stages, none at the logits"

    @pytest.mark.parametrize("pool", ["grid", "stride"])
    def test_inference(self, pool):
        net, args = coarse_net(pool=pool, fusion="lateral", dtype=float64), coarse_inputs(dtype=float64)
        fast = prepare_for_inference(net)
        net.eval()
        with torch.no_grad():
            torch.testing.assert_close(fast(*args), net(*args), atol=1e-12, rtol=0)

    def test_frames_within_reach_matter_and_padded_ones_do_not(self):
        net = coarse_net(pool="stride", fusion="lateral").eval()
        clip, features, mask, start = coarse_inputs(frames=5, valid=[20, 8], start=[0, 0])
        expected = net(clip, features, mask, start)
        for frame, matters in ((3, [True, True]), (7, [False, False])):
            changed = {name: f.clone() for name, f in features.items()}
            for f in changed.values():
                f[:, :, frame] += 1
            difference = (net(clip, changed, mask, start) - expected).abs().amax((1, 2))
            assert (difference > 1e-3).tolist() == matters

    def test_bfloat16(self):
        net, args = coarse_net(fusion="lateral"), coarse_inputs()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(*args)
        logits.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())

    def test_published_files(self, tmp_path):
        """Of a Coarse-Fine network they are refused, of X3D they start it, and it has no published form itself."""
        lateral = coarse_net(fusion="lateral")
        before = {name: tensor.clone() for name, tensor in lateral.state_dict().items()}
        save_official(coarse_net(seed=1), tmp_path / "coarse_fine.pt")
        with pytest.raises(CheckpointError, match=r"network: missing fusion\.lateral\.0\.own\.weight"):
            load_official(lateral, tmp_path / "coarse_fine.pt")
        assert all(torch.equal(tensor, before[name]) for name, tensor in lateral.state_dict().items())
        with pytest.raises(ValueError, match="no published format"):
            save_official(lateral, tmp_path / "lateral.pt")
        assert not (tmp_path / "lateral.pt").exists()

    @pytest.mark.parametrize("classes", [5, 400])
    def test_kinetics_weights_start_it(self, kinetics, classes):
        net = coarse_net(pool="stride", fusion="lateral", num_classes=classes)
        fresh = load_official(net, kinetics[0]).fresh
        assert {name.split(".")[0] for name in fresh} == {"fusion", "head"}
