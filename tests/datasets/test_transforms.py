import numpy as np
import pytest
import torch
from PIL import Image

from datasets.transforms import MEAN, STD, View, augmented_view, centred_view, crop_scales, normalise, render


def textured(width, height, frames=2, seed=0):
    """Frames (H,W,3) with texture and edges, which show a misplaced crop or another filter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pictures = []
    for k in range(frames):
        waves = [128 + 90 * np.sin(x / (3 + c) + k) * np.cos(y / (4 + c)) for c in range(3)]
        pixels = np.stack(waves, -1) + rng.normal(0, 20, (height, width, 3)) + 60 * (x > y)[..., None]
        pictures.append(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)))
    return pictures


def by_pil(frame, view, size):
    image = Image.fromarray(frame.numpy())
    image = image.crop((view.left, view.top, view.left + view.side, view.top + view.side))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else image)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (320, 179), (224, 224), (500, 400)])
@pytest.mark.parametrize("size", [64, 160, 224])
@pytest.mark.parametrize("flip", [False, True])
def test_views_equal_pil(width, height, size, flip):
    frames, view = textured(width, height), centred_view(width, height)._replace(flip=flip)
    clip = render(frames, view, size)
    assert (clip.shape, clip.dtype) == ((2, size, size, 3), torch.uint8)
    assert clip.is_contiguous()
    expected = np.stack([by_pil(frame, view, size) for frame in frames])
    difference = np.abs(clip.numpy().astype(int) - expected)
    assert np.mean(difference <= 1) >= 0.999


def test_render_takes_frames_in_order_whatever_their_number():
    frames = [torch.full((20, 30, 3), k, dtype=torch.uint8) for k in range(19)]
    assert render(frames, View(3, 2, 15, True), 8)[:, 0, 0, 0].tolist() == list(range(19))


def test_centred_view():
    assert centred_view(320, 240) == View(40, 0, 240, False)
    assert centred_view(240, 320) == View(0, 40, 240, False)
    assert centred_view(321, 240) == View(40, 0, 240, False)  # 40.5: Python rounds halves to even
    assert centred_view(323, 240) == View(42, 0, 240, False)


def test_crop_scales():
    assert crop_scales(160) == (160 / 180, 160 / 225)
    assert crop_scales(224) == (224 / 256, 224 / 320)
    assert crop_scales(312) == (312 / 360, 312 / 450)
    assert crop_scales(64) == crop_scales(224)


def test_augmented_views():
    rng = np.random.default_rng(0)
    views = [augmented_view(rng, 320, 240, 224) for _ in range(2000)]
    assert {view.side for view in views} == {210, 168}  # int(240 * 224/256), int(240 * 224/320)
    assert {view.flip for view in views} == {True, False}
    for side in (210, 168):
        assert {view.left for view in views if view.side == side} == set(range(320 - side))
        assert {view.top for view in views if view.side == side} == set(range(240 - side))
    assert 0.45 < np.mean([view.flip for view in views]) < 0.55
    assert 0.45 < np.mean([view.side == 210 for view in views]) < 0.55


def test_a_view_is_drawn_once_per_generator_state():
    assert augmented_view(np.random.default_rng(5), 320, 240, 224) == augmented_view(
        np.random.default_rng(5), 320, 240, 224
    )


def test_augmented_view_of_a_square_as_small_as_it_gets():
    view = augmented_view(np.random.default_rng(0), 10, 10, 64)
    assert view.left + view.side <= 10
    assert view.top + view.side <= 10


def test_normalise():
    clip = torch.randint(0, 256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    expected = ((clip / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 4, 1, 2, 3)
    result = normalise(clip, torch.tensor([4, 2]))
    torch.testing.assert_close(result[0], expected[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(result[1, :, :2], expected[1, :, :2], atol=2e-6, rtol=0)
    assert (result[1, :, 2:] == 0).all()
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(normalise(clip), normalise(clip, [4, 4]))


def test_normalise_does_not_depend_on_the_memory_order_and_reuses_a_buffer():
    clip, buffer = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8), torch.full((2, 4, 5, 6, 3), 9.0)
    other = clip.permute(0, 2, 3, 4, 1)
    expected = normalise(other.contiguous(), [1, 4])
    again = normalise(other, [1, 4], out=buffer)
    assert again.data_ptr() == buffer.data_ptr()
    assert torch.equal(again, expected)


@pytest.mark.parametrize(("side", "size"), [(64, 224), (72, 224), (240, 224), (256, 224), (240, 312), (80, 64)])
def test_resized_exactly_as_pil(side, size):
    """Also where pixels fall exactly between two grey levels, as many do from 64 to 224 and from 80 to 64."""
    frame = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8))
    clip = render([frame], centred_view(side, side), size)
    expected = Image.fromarray(frame.numpy()).resize((size, size), Image.BILINEAR)
    np.testing.assert_array_equal(clip[0], np.asarray(expected))
