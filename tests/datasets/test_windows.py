from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.windows import Window, blend, borders, fade, scale, split

splits = st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 39)).filter(lambda s: s[2] < s[1])


def blended(windows, parts):
    pieces, held = [], None
    for number, part in enumerate(parts):
        piece, held = blend(windows, number, part, held)
        after = windows[number + 1].start if number + 1 < len(windows) else windows[-1].stop
        assert sum(p.shape[1] for p in pieces) + piece.shape[1] == after, "all that no later window covers"
        pieces.append(piece)
    assert held is None
    return torch.cat(pieces, 1)


# --- where windows lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (64, 64, 16, [0]),
        (65, 64, 16, [0, 1]),
        (112, 64, 16, [0, 48]),  # exactly two steps
        (113, 64, 16, [0, 48, 49]),
        (160, 64, 0, [0, 64, 96]),
        (8640, 128, 32, [*range(0, 8512, 96), 8512]),  # an hour at stride 10
    ],
)
def test_split(length, window, overlap, starts):
    assert split(length, window, overlap) == [Window(start, start + min(window, length)) for start in starts]


def test_no_window_is_one_window():
    assert split(10_000, None, 0) == [Window(0, 10_000)]
    with pytest.raises(ValueError, match="windows of 8 frames cannot overlap by 8"):
        split(10, 8, 8)


@given(splits)
def test_windows_cover_the_video_with_at_least_the_overlap(case):
    length, window, overlap = case
    windows = split(length, window, overlap)
    assert (windows[0].start, windows[-1].stop) == (0, length)
    if length <= window:
        assert len(windows) == 1
        return
    assert {stop - start for start, stop in windows} == {window}
    common = [before.stop - after.start for before, after in pairwise(windows)]
    assert set(common[:-1]) <= {overlap}
    assert overlap <= common[-1] < window, "only the last one is moved, and never onto the one before"
    assert len(windows) == 1 + -(-(length - window) // (window - overlap)), "no more than it takes"
    assert scale(windows, 7)[-1] == (7 * windows[-1].start, 7 * length)
    assert borders(windows) == sorted(set(borders(windows)))
    assert all(w.start <= border <= w.stop for w, border in zip(windows[1:], borders(windows), strict=True))


# --- blending ---------------------------------------------------------------------------------------------------------


def test_one_window_fades_into_the_next_in_a_straight_line():
    windows = split(12, 8, 4)  # frames 4..7 in common
    values = blended(windows, [torch.zeros(1, 8), torch.ones(1, 8)])
    assert values[0].tolist() == [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]


@given(splits, st.integers(1, 3))
def test_blend_is_the_weighted_mean(case, factor):
    """Independently: all windows side by side in double precision, on an axis finer by `factor`."""
    windows = scale(split(*case), factor)
    length = windows[-1].stop
    rng = np.random.default_rng(length)
    parts = [rng.normal(size=(2, stop - start, 3)).astype(np.float32) for start, stop in windows]
    total, weights, covered = np.zeros((2, length, 3)), np.zeros(length), np.zeros(length, int)
    single = np.zeros((2, length, 3), np.float32)
    for number, ((start, stop), part) in enumerate(zip(windows, parts, strict=True)):
        at = np.arange(start, stop) + 0.5
        to_left = at - start if number else np.full(len(at), 1e9)
        to_right = stop - at if number + 1 < len(windows) else np.full(len(at), 1e9)
        weight = np.minimum(to_left, to_right)
        total[:, start:stop] += part * weight[:, None]
        weights[start:stop] += weight
        covered[start:stop] += 1
        single[:, start:stop] = part
    result = blended(windows, [torch.from_numpy(part) for part in parts]).numpy()
    np.testing.assert_allclose(result, total / weights[:, None], rtol=0, atol=2e-6)
    alone = covered == 1
    np.testing.assert_array_equal(result[:, alone], single[:, alone])


@given(splits)
def test_what_windows_agree_on_stays_to_the_last_bit(case):
    windows = split(*case)
    whole = torch.rand(3, windows[-1].stop, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blended(windows, [whole[:, start:stop] for start, stop in windows]), whole)


def test_a_window_alone_is_not_touched():
    values = torch.randn(2, 5)
    assert blend(split(5, 8, 2), 0, values)[0] is values


def test_weights_do_not_fall_at_the_ends_of_the_video():
    windows = split(20, 10, 2)
    assert fade(windows, 0).argmax() == 0
    assert fade(windows, 1).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 4.5, 3.5, 2.5, 1.5, 0.5]
    assert fade(windows, 2).argmax() == 9
