"""Which frames are scored: exact indices, and agreement with the published code's 25 outputs."""

import numpy as np
import pytest

from eval.per_frame import frame_ap, official_frames, released_frames


def test_released_frames_are_the_published_slice():
    for length in range(25, 3000):
        expected = np.arange(length)[1 :: int(length / 25)][:25]
        np.testing.assert_array_equal(released_frames(length), expected)


def test_released_frames_of_short_videos():
    assert released_frames(1).tolist() == [0]
    assert released_frames(2).tolist() == [1]
    assert released_frames(24).tolist() == list(range(1, 24))
    assert released_frames(25).tolist() == list(range(1, 25))
    assert released_frames(26).tolist() == list(range(1, 26))
    with pytest.raises(ValueError, match="at least one"):
        released_frames(0)


def test_official_frames():
    assert official_frames(250, 250).tolist() == list(range(0, 250, 10))
    assert official_frames(1, 1).tolist() == [0] * 25
    # n = 12, j from 1: floor((j-1) 12/25), but the labels end at 10
    assert "".join(map(str, official_frames(12, 10))) == "0001122334455667788999999"
    for n in (27, 161, 173, 719, 12345):
        expected = [min(n // 10 * 10 - 1, (j - 1) * n // 25) for j in range(1, 26)]
        assert official_frames(n, n // 10 * 10).tolist() == expected
    with pytest.raises(ValueError, match="at least one"):
        official_frames(10, 0)


def interpolation(frames, length, knots):
    """(F, knots): linear interpolation (align_corners false) of `knots` values over `length` frames, at `frames`."""
    position = np.clip((frames + 0.5) * knots / length - 0.5, 0, knots - 1)
    distance = np.abs(position[:, None] - np.arange(knots))
    return np.maximum(0, 1 - distance)


@pytest.mark.parametrize("video", ["ZQ1A0", "ZQ1A1", "ZQ1A2", "ZQ1A3"])
def test_the_published_outputs_lie_at_the_released_frames(golden, video):
    """Its logits over frames are 4N values interpolated linearly. 25 samples of such a curve, with fewer values
    between, are consistent with the right frame indices and with no others."""
    expected = np.load(golden / "pipeline/expected.npz")
    length = int(expected[f"{video}/labelshape"][1])
    logits = expected[f"{video}/logits25"].astype(np.float64)
    knots = 4 * -(-(length // 10) // 4)

    def misfit(frames):
        basis = interpolation(frames, length, knots)
        return np.abs(logits - basis @ np.linalg.lstsq(basis, logits, rcond=None)[0]).max()

    assert misfit(released_frames(length)) < 1e-6
    assert misfit(released_frames(length) - 1) > 1e-3
    assert misfit(released_frames(length) + 1) > 1e-3


def test_a_class_without_positives_counts_as_zero():
    scores = [np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.7, 0.3]])]
    labels = [np.array([[0, 0], [1, 0]]), np.array([[0, 0]])]
    ap, mean = frame_ap(scores, labels)
    assert ap[0] == 0.5
    assert np.isnan(ap[1])
    assert mean == 0.25
