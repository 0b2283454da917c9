"""The bootstrap: every resample's AP is that of a data set in which the videos are really repeated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import bootstrap, charades_localize, video_level
from eval.average_precision import average_precision
from eval.bootstrap import basic_interval, draw_counts, percentile_interval, resampled_ap
from eval.charades_localize import Truth

C = 4


def repeated(blocks, counts):
    """The blocks of all videos, each as often as drawn, copies one after another."""
    return [block for block, count in zip(blocks, counts, strict=True) for _ in range(int(count))]


def all_classes(scores, labels, counts):
    return np.stack(list(resampled_ap(scores, labels, counts)), axis=1)


def assert_equal_to_repeating(scores, labels, counts):
    """(B,C) of the fast way, each row compared with the slow one."""
    fast = all_classes(scores, labels, counts)
    for drawn, ap in zip(counts.T, fast, strict=True):
        expected = average_precision(repeated(scores, drawn), repeated(labels, drawn))
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)
    return fast


@st.composite
def data(draw):
    """Videos of 0 to 5 rows whose scores take 1 to 8 values, -inf among them, and how often each is drawn."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = [1, *draw(st.lists(st.integers(0, 5), max_size=6))]
    values = np.r_[-np.inf, rng.normal(size=draw(st.integers(0, 7)))]
    scores = [rng.choice(values, (length, C)) for length in lengths]
    labels = [rng.random((length, C)) < draw(st.sampled_from([0.1, 0.5, 0.9])) for length in lengths]
    counts = rng.integers(0, draw(st.integers(1, 6)) + 1, (len(lengths), 5)).astype(float)
    counts[0] = np.maximum(counts[0], 1)  # a data set has a row
    return scores, labels, counts


@given(data())
def test_equals_average_precision_of_the_repeated_videos(drawn):
    assert_equal_to_repeating(*drawn)


def charades(num_videos):
    """Ground truth and predictions of two decimals; every fourth video is missing, two have no action."""
    rng = np.random.default_rng(7)
    truth, predictions = {}, {}
    for number in range(num_videos):
        ends = np.sort(rng.random((3, 2)) * 30, axis=1)
        actions = [(int(rng.integers(C)), *map(float, pair)) for pair in ends] if number > 1 else []
        truth[f"V{number:02d}"] = Truth(actions, 30.0)
        if number % 4:
            predictions[f"V{number:02d}"] = rng.random((25, C)).round(2)
    return truth, predictions


def renamed(truth, predictions, drawn):
    """Ground truth and predictions in which video V, drawn three times, stands as V#0, V#1, V#2."""
    copies = [(video, f"{video}#{k}") for video, count in zip(truth, drawn, strict=True) for k in range(int(count))]
    return (
        {name: truth[video] for video, name in copies},
        {name: predictions[video] for video, name in copies if video in predictions},
    )


@pytest.mark.parametrize("rule", [charades_localize, video_level])
def test_equals_the_rule_on_ground_truth_and_submission_with_copies(rule):
    truth, predictions = charades(23)
    counts = draw_counts(len(truth), 12, seed=3)
    resampled = all_classes(*rule.rows(predictions, truth, C), counts)
    for ap, drawn in zip(resampled, counts.T, strict=True):
        copied_truth, copied_predictions = renamed(truth, predictions, drawn)
        expected = average_precision(*rule.rows(copied_predictions, copied_truth, C))
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)


def test_copies_of_a_video_follow_one_another():
    """Two frames of equal score, the first positive: drawn twice, the order is + - + -, not + + - -."""
    scores, labels = [np.zeros((2, 1))], [np.array([[1], [0]])]
    assert all_classes(scores, labels, np.array([[1.0, 2.0]])).tolist() == [[1], [pytest.approx((1 + 2 / 3) / 2)]]
    untied = [np.array([[0.1], [0.9]])]
    assert all_classes(untied, labels, np.array([[1.0, 2.0]])).tolist() == [[1 / 2], [(1 / 3 + 2 / 4) / 2]]


def test_a_class_without_positives_in_a_resample_is_nan():
    scores = [np.array([[0.9, 0.9]]), np.array([[0.1, 0.1]])]
    labels = [np.array([[0, 0]]), np.array([[1, 0]])]
    ap = all_classes(scores, labels, np.array([[2.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(ap, [[np.nan, np.nan], [0.5, np.nan]])


def test_how_many_resamples_are_computed_at_once_does_not_matter(monkeypatch):
    rng = np.random.default_rng(5)
    scores, labels = list(rng.integers(0, 30, (40, 6, C))), list(rng.random((40, 6, C)) < 0.3)
    counts = draw_counts(40, 30, seed=0)
    expected = assert_equal_to_repeating(scores, labels, counts)
    monkeypatch.setattr(bootstrap, "_RESAMPLES_AT_ONCE", 7)
    np.testing.assert_allclose(all_classes(scores, labels, counts), expected, rtol=0, atol=1e-15)
    monkeypatch.setattr(bootstrap, "_VALUES_AT_ONCE", 100)
    np.testing.assert_allclose(all_classes(scores, labels, counts), expected, rtol=0, atol=1e-15)


def test_draws_are_with_replacement_and_repeatable():
    counts = draw_counts(50, 2000, seed=1)
    assert counts.shape == (50, 2000)
    assert (counts.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(counts, draw_counts(50, 2000, seed=1))
    assert (counts != draw_counts(50, 2000, seed=2)).any()
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=0.1)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_intervals_are_percentiles_of_what_is_defined():
    values = np.arange(201.0)[::-1, None].repeat(3, axis=1)
    values[::2, 1], values[:, 2] = np.nan, np.nan
    low, high = percentile_interval(values)
    np.testing.assert_allclose(low, [5, 1 + 2 * 2.475, np.nan])
    np.testing.assert_allclose(high, [195, 199 - 2 * 2.475, np.nan])
    np.testing.assert_allclose(percentile_interval(values[:, 0]), [5, 195])


def test_a_basic_interval_is_mirrored_at_the_value():
    values = np.arange(201.0)[:, None]
    np.testing.assert_allclose(basic_interval(np.array([90.0]), values), [[180 - 195], [180 - 5]])
    np.testing.assert_allclose(basic_interval(np.float64(90), values[:, 0]), [-15, 175])


def test_numbers_of_videos_must_agree():
    with pytest.raises(ValueError, match="counts of 3 videos"):
        next(resampled_ap([np.zeros((1, 1))], [np.ones((1, 1))], np.ones((3, 2))))
