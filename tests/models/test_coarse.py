"""The Coarse stream against the slow reference, and what padding, pools and fusion may and may not change."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.alignment import gaussian_weights
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, draw_fine
from tests.models.reference import Reference, gaussian

POOLS = ("grid", "avg", "max", "stride", "none")
FUSIONS = ("multistage", "per_stage", "none")
float64 = torch.float64


def expected_frames(pool, frames):
    return {
        "grid": 4 * math.ceil(frames / 4),
        "avg": frames // 4,
        "max": frames // 4,
        "stride": math.ceil(frames / 4),
        "none": frames,
    }[pool]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pool", POOLS)
def test_equals_the_reference(pool, fusion):
    net = coarse_net(pool=pool, fusion=fusion, dtype=float64).eval()
    for frames in (4, 9, 11):
        args = coarse_inputs(frames=frames, start=[3, 0], seed=frames, dtype=float64)
        with torch.no_grad():
            logits = net(*args)
        assert logits.shape[2] == expected_frames(pool, frames)
        torch.testing.assert_close(logits, Reference(net, pool=pool, fusion=fusion).coarse(*args))


@pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
@pytest.mark.parametrize(
    "size",
    [
        (224, 224),  # stages at 56, 28, 14 and 7: plain repetition of the 7x7 grid
        (112, 80),  # stages at 28x20 .. 7x5, 4x3: one side or none a multiple of 7
        (96, 224),  # 24x56 .. 3x7
        (65, 71),  # 17x18, 9x9, 5x5, 3x3
    ],
)
def test_fusion_at_all_sizes_equals_six_dimensions(size, fusion):
    net = coarse_net(fusion=fusion, dtype=float64).eval()
    args = coarse_inputs(frames=5, size=size, valid=[7], start=[2], dtype=float64)
    with torch.no_grad():
        torch.testing.assert_close(net(*args), Reference(net, fusion=fusion).coarse(*args))


def test_several_groups_of_statistics_in_evaluation():
    net = coarse_net(bn_splits=3, dtype=float64).eval()
    args = coarse_inputs(dtype=float64)
    torch.testing.assert_close(net(*args), Reference(net).coarse(*args))


def test_single_precision_is_close_to_double():
    args = coarse_inputs(frames=21, dtype=float64)
    double = coarse_net(dtype=float64).eval()(*args)
    clip, features, mask, start = args
    single = coarse_net().eval()(clip.float(), {k: f.float() for k, f in features.items()}, mask.float(), start)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)


class TestGaussianWeights:
    def test_equals_the_reference(self):
        centres = torch.tensor([[0.0, 2.3, 7.9, 12.0], [3.0, 4.5, 4.5, 20.0]], dtype=float64)
        mask = draw_fine([12, 7], dtype=float64)[1]
        torch.testing.assert_close(gaussian_weights(centres, mask), gaussian(centres, mask))

    def test_closed_form(self):
        weights = gaussian_weights(torch.tensor([[4.0]], dtype=float64), torch.ones(1, 16, dtype=float64))
        assert weights[0, 4, 0] == 1
        assert weights[0, 6, 0].item() == pytest.approx(math.exp(-1 / 2))  # sigma is 16/8 = 2 frames

    def test_width_follows_the_valid_frames_and_the_maximum_all_frames(self):
        mask = torch.tensor([[1.0] * 8 + [0.0] * 4], dtype=float64)
        weights = gaussian_weights(torch.tensor([[10.0]], dtype=float64), mask)[0, :, 0]
        assert weights.argmax() == 10  # a padded frame
        assert weights[9].item() == pytest.approx(math.exp(-1 / 2))  # sigma is 8/8

    @pytest.mark.parametrize("mask", [torch.zeros(1, 5), torch.tensor([[1.0, 0, 0, 0, 0]])])
    @pytest.mark.parametrize("centre", [0.0, 2.5, 1000.0])
    def test_degenerate_masks_stay_finite(self, mask, centre):
        weights = gaussian_weights(torch.tensor([[centre]]), mask)
        assert weights.isfinite().all()


def padded(features, mask, extra, filling):
    """The same videos in a longer batch, and every padded frame filled."""
    longer = torch.cat([mask, mask.new_zeros(len(mask), extra)], 1)
    result = {}
    for name, f in features.items():
        f = torch.cat([f, f.new_zeros(*f.shape[:2], extra, 7, 7)], 2)
        garbage = filling * torch.randn(f.shape, generator=torch.Generator().manual_seed(0), dtype=f.dtype)
        result[name] = torch.where(longer[:, None, :, None, None] > 0, f, garbage)
    return result, longer


class TestPadding:
    @pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
    @pytest.mark.parametrize("pool", ["grid", "stride", "none"])
    @pytest.mark.parametrize(("extra", "filling"), [(0, 1e3), (6, 0.0), (6, 1e3)])
    def test_padded_fine_frames_change_nothing(self, pool, fusion, extra, filling):
        net = coarse_net(pool=pool, fusion=fusion, dtype=float64).eval()
        clip, features, mask, start = coarse_inputs(start=[2, 1], dtype=float64)
        with torch.no_grad():
            expected = net(clip, features, mask, start)
            logits = net(clip, *padded(features, mask, extra, filling), start)
        # Through the 1e-6 beside the denominator alone: weights are scaled by their maximum over padded frames too.
        torch.testing.assert_close(logits, expected, atol=1e-5 if extra else 1e-12, rtol=0)

    def test_valid_fine_frames_do_matter(self):
        """So that the test above can fail."""
        net = coarse_net(dtype=float64).eval()
        clip, features, mask, start = coarse_inputs(dtype=float64)
        expected = net(clip, features, mask, start)
        for name in features:
            changed = features[name].clone()
            changed[1, :, 10] += 1
            difference = net(clip, {**features, name: changed}, mask, start) - expected
            assert difference[1].abs().max() > 1e-3, name
            assert difference[0].abs().max() == 0, name

    def test_padded_fine_frames_change_no_gradient(self):
        net = coarse_net(dropout=0.0, dtype=float64)
        clip, features, mask, start = coarse_inputs(dtype=float64)
        grads = []
        for fine in ((features, mask), padded(features, mask, 0, 1e3)):
            net.zero_grad()
            net(clip, *fine, start).square().mean().backward()
            grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
        torch.testing.assert_close(grads[0], grads[1])

    @pytest.mark.parametrize("pool", POOLS)
    def test_padded_clip_frames_change_their_own_video_only(self, pool):
        net = coarse_net(pool=pool, dtype=float64).eval()
        clip, features, mask, start = coarse_inputs(frames=12, valid=[13, 13, 13], start=[0, 1, 2], dtype=float64)
        expected = net(clip, features, mask, start)
        clip = clip.clone()
        clip[1, :, 7:] = 0
        difference = (net(clip, features, mask, start) - expected).abs().amax((1, 2))
        assert difference[1] > 1e-3
        assert difference[0] < 1e-12
        assert difference[2] < 1e-12

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
    def test_mask_and_start_of_any_type(self, dtype):
        net = coarse_net(dtype=float64).eval()
        clip, features, mask, start = coarse_inputs(dtype=float64)
        torch.testing.assert_close(
            net(clip, features, mask.to(dtype), start.int()), net(clip, features, mask, start), atol=1e-12, rtol=0
        )

    def test_a_video_without_fine_frames_is_finite(self):
        clip, features, mask, start = coarse_inputs()
        mask[1] = 0
        net = coarse_net()
        logits = net(clip, features, mask, start)
        logits.sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in net.parameters())


class TestFusion:
    def test_none_needs_no_features(self):
        net, clip = coarse_net(fusion="none").eval(), draw_clip(2, 9)
        assert torch.equal(net(clip), net(clip, *coarse_inputs()[1:]))
        assert not any("fusion" in name for name in net.state_dict())

    @pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
    def test_start_matters(self, fusion):
        net = coarse_net(fusion=fusion).eval()
        clip, features, mask, start = coarse_inputs()
        difference = net(clip, features, mask, start + torch.tensor([0, 5])) - net(clip, features, mask, start)
        assert difference[0].abs().max() == 0
        assert difference[1].abs().max() > 1e-3

    def test_order_of_the_feature_dictionary_does_not_matter(self):
        net = coarse_net().eval()
        clip, features, mask, start = coarse_inputs()
        reversed_features = dict(reversed(features.items()))
        assert torch.equal(net(clip, features, mask, start), net(clip, reversed_features, mask, start))


class Sizes(TorchDispatchMode):
    """The sizes of all tensors that are made, the backward pass included."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.shapes.update(x.shape for x in tree_leaves(out) if isinstance(x, torch.Tensor))
        return out

    def positions(self, *times):
        """The largest number of elements beside `times`, over all tensors that hold all these (primes) as factors."""
        factor = math.prod(times)
        return max((s.numel() // factor for s in self.shapes if s.numel() and s.numel() % factor == 0), default=0)


FINE_FRAMES, CLIP_FRAMES, COARSE_FRAMES = 29, 69, 19  # ceil(69/4)+1; primes, so that no view can hide them


@pytest.mark.parametrize("fusion", ["multistage", "per_stage"])
def test_no_tensor_has_both_times_at_a_stages_size(fusion):
    net = coarse_net(fusion=fusion)
    args = coarse_inputs(frames=CLIP_FRAMES, size=112, valid=[FINE_FRAMES])
    with Sizes() as sizes:
        net(*args).sum().backward()
    assert sizes.positions(FINE_FRAMES) > 0
    assert sizes.positions(COARSE_FRAMES) > 28 * 28
    assert 0 < sizes.positions(FINE_FRAMES, COARSE_FRAMES) <= 49


def test_the_published_way_would_be_noticed():
    net = coarse_net().eval()
    args = coarse_inputs(frames=CLIP_FRAMES, size=64, valid=[FINE_FRAMES])
    with Sizes() as sizes, torch.no_grad():
        Reference(net).coarse(*args)
    assert sizes.positions(FINE_FRAMES, COARSE_FRAMES) > 49
