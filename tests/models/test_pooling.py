"""Grid Pool and its inverse, alone: sampling locations, sampling, the way back."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.pooling import GridPool, grid_unpool, inverse_cdf, invert_grid, sample_frames


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_logits(batch=3, regions=9, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(batch, regions, generator=generator(), dtype=dtype)


class TestInverseCdf:
    def test_uniform_confidence_is_uniform_sampling(self):
        for z in (-3.0, 0.0, 5.0):
            torch.testing.assert_close(inverse_cdf(torch.full((2, 8), z)), torch.linspace(0, 1, 9).expand(2, 9))

    def test_closed_form(self):
        p = torch.tensor([[0.5, 0.75, 0.25]], dtype=torch.float64)
        grid = inverse_cdf(2 * torch.logit(p))
        torch.testing.assert_close(grid, torch.tensor([[0, 2, 3, 6]], dtype=torch.float64) / 6)

    def test_high_confidence_is_dense(self):
        z = torch.zeros(1, 8)
        z[0, 3] = 6
        steps = inverse_cdf(z).diff()[0]
        assert steps.argmin() == 3
        assert steps[3] < 0.1 * steps[2]

    @pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_from_0_to_1_without_turning_back(self, scale, dtype):
        grid = inverse_cdf(drawn_logits(16, 25, scale, dtype))
        assert grid.dtype == dtype
        assert (grid[:, 0] == 0).all()
        assert (grid.diff() >= 0).all()
        torch.testing.assert_close(grid[:, -1], torch.ones(16, dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_widened(self, dtype):
        z = drawn_logits(2, 200).to(dtype)
        grid = inverse_cdf(z)
        assert grid.dtype == torch.float32
        torch.testing.assert_close(grid, inverse_cdf(z.float()))

    def test_gradients(self):
        assert torch.autograd.gradcheck(inverse_cdf, drawn_logits().requires_grad_())


class TestSampleFrames:
    def locations(self, frames, count=11):
        return (frames - 1) * torch.rand(2, count, generator=generator(1), dtype=torch.float64)

    @pytest.mark.parametrize("frames", [1, 2, 7])
    @pytest.mark.parametrize("trailing", [(), (3, 2)])
    def test_equals_grid_sample(self, frames, trailing):
        x = torch.randn(2, 4, frames, *trailing, generator=generator(), dtype=torch.float64)
        at = self.locations(frames)
        grid = torch.stack([torch.zeros_like(at), 2 * at / max(frames - 1, 1) - 1], -1).unsqueeze(2)  # (B,J,1,2): x, y
        expected = F.grid_sample(
            x.transpose(1, 2).flatten(2).transpose(1, 2).unsqueeze(3), grid, align_corners=True, padding_mode="border"
        )  # (B,C*P,J,1)
        expected = expected.squeeze(3).unflatten(1, (4, *trailing)).movedim(-1, 2)
        torch.testing.assert_close(sample_frames(x, at), expected)

    def test_equals_numpy_at_whole_and_end_frames(self):
        x = torch.randn(1, 1, 6, generator=generator())
        at = torch.tensor([[0, 1, 4, 5, 4.999, 0.001]])
        expected = np.interp(at[0].numpy(), np.arange(6), x[0, 0].numpy())
        np.testing.assert_allclose(sample_frames(x, at)[0, 0].numpy(), expected, atol=1e-6)

    def test_each_video_is_read_at_its_own_times(self):
        x = torch.arange(5.0).expand(2, 1, 5) * torch.tensor([1.0, 10.0]).view(2, 1, 1)
        at = torch.tensor([[0.5, 2.0], [3.0, 3.5]])
        assert sample_frames(x, at).tolist() == [[[0.5, 2.0]], [[30.0, 35.0]]]

    def test_gradients(self):
        x = torch.randn(2, 3, 6, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(sample_frames, (x, self.locations(6).requires_grad_()))


class TestUnpool:
    @pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
    def test_inverse_equals_numpy(self, dtype, atol):
        grid = inverse_cdf(drawn_logits(16, 25, 1.0, dtype))
        even = np.linspace(0, 1, 26)
        for row, inverse in zip(grid, invert_grid(grid), strict=True):
            np.testing.assert_allclose(inverse.numpy(), np.interp(even, row.numpy(), even), atol=atol)

    def test_inverse_stays_within_the_clip(self):
        """Where all regions are confident beyond the format's precision, the grid ends before 1."""
        grid = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0]])
        torch.testing.assert_close(invert_grid(grid)[0], torch.tensor([0.0, 1.0, 1.0, 1.0]))
        assert invert_grid(grid)[1].max() <= 1

    def test_inverse_of_a_uniform_grid(self):
        even = torch.linspace(0, 1, 7).expand(2, 7)
        torch.testing.assert_close(invert_grid(even), even)

    def test_gradients(self):
        logits = torch.randn(2, 3, 10, generator=generator(), dtype=torch.float64, requires_grad=True)
        z = drawn_logits(2, 9, 1.0).requires_grad_()
        assert torch.autograd.gradcheck(lambda logits, z: grid_unpool(logits, inverse_cdf(z)), (logits, z))

    def test_uniform_grid_is_plain_resizing(self):
        logits = torch.randn(2, 3, 9, generator=generator())
        expected = F.interpolate(logits, size=32, mode="linear", align_corners=True)
        torch.testing.assert_close(grid_unpool(logits, torch.linspace(0, 1, 9).expand(2, 9)), expected)

    @pytest.mark.parametrize("scale", [0.0, 1.0])
    def test_unpool_after_pool_is_near_identity(self, scale):
        """Up to the straight lines between the frames that were kept."""
        frames, regions = 161, 40
        time = torch.arange(frames, dtype=torch.float64)
        signal = torch.stack([torch.sin(time / 20), torch.cos(time / 30)]).expand(2, 2, frames)
        grid = inverse_cdf(drawn_logits(2, regions, scale))
        back = grid_unpool(sample_frames(signal, grid * (frames - 1)), grid)
        expected = sample_frames(signal, torch.linspace(0, frames - 1, 4 * regions, dtype=torch.float64).expand(2, -1))
        assert back.shape == (2, 2, 4 * regions)
        assert (back - expected).abs().max() < 0.05
        if scale:  # and it is the inverse map that does it
            uniform = torch.linspace(0, 1, regions + 1, dtype=torch.float64).expand(2, -1)
            ignored = grid_unpool(sample_frames(signal, grid * (frames - 1)), uniform)
            assert (ignored - expected).abs().max() > 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "z",
    [[0, 90, 0, 0], [0, -90, 0, 0], [90, 90, 0, 90], [0, 0, 0, 90], [90, 0, 0, 0], [90, 90, 90, 90], [-90] * 4],
    ids=str,
)
def test_saturated_confidences_stay_finite(z, dtype):
    z = torch.tensor([z], dtype=dtype, requires_grad=True)
    x = torch.randn(1, 2, 16, generator=generator(), dtype=dtype, requires_grad=True)
    grid = inverse_cdf(z)
    out = grid_unpool(sample_frames(x, grid * 15), grid)
    out.square().sum().backward()
    for value in (grid, out, z.grad, x.grad):
        assert value.isfinite().all()
    assert ((grid >= 0) & (grid <= 1)).all()
    assert out.abs().max() <= x.abs().max() + 1e-5


class TestGridPool:
    @pytest.mark.parametrize(("frames", "regions"), [(4, 1), (5, 2), (8, 2), (9, 3), (16, 4)])
    def test_regions(self, frames, regions):
        pooled, grid = GridPool(6)(torch.randn(2, 6, frames, 9, 11, generator=generator()))
        assert pooled.shape == (2, 6, regions + 1, 9, 11)
        assert grid.shape == (2, regions + 1)

    def test_without_preference_frames_are_evenly_spaced(self):
        pool = GridPool(6).eval()
        torch.nn.init.zeros_(pool.conv3.weight)
        x = torch.randn(2, 6, 13, 8, 8, generator=generator())
        pooled, grid = pool(x)
        torch.testing.assert_close(grid, torch.linspace(0, 1, 5).expand(2, 5))
        torch.testing.assert_close(pooled, x[:, :, ::3])

    def test_first_and_last_frame_are_kept(self):
        x = torch.randn(2, 6, 13, 8, 8, generator=generator())
        pooled, _ = GridPool(6)(x)
        torch.testing.assert_close(pooled[:, :, 0], x[:, :, 0])
        torch.testing.assert_close(pooled[:, :, -1], x[:, :, -1], atol=1e-4, rtol=0)
