"""Rule "video level": equal to the rule spelled out video by video, and its conventions one by one."""

import numpy as np
import pytest

from common.errors import InputError
from eval.average_precision import average_precision
from eval.charades_localize import Truth, read_ground_truth, read_predictions
from eval.video_level import rows


def classify(predictions, truth, num_classes):
    """AP (C,) by the rule."""
    return average_precision(*rows(predictions, truth, num_classes))


def plain_rule(predictions, truth, num_classes):
    """AP of every class by comparing each video with every other; nothing is sorted."""
    scores = {}
    for video, (actions, _) in truth.items():
        known = video in predictions and len(actions) > 0
        scores[video] = [max(row[c] for row in predictions[video]) if known else -np.inf for c in range(num_classes)]
    videos, ap = list(truth), []
    for c in range(num_classes):
        has = {video: any(name == c for name, _, _ in truth[video][0]) for video in videos}
        precisions = []
        for place, video in enumerate(videos):
            if has[video]:
                at_least = [
                    other for p, other in enumerate(videos)
                    if scores[other][c] > scores[video][c] or (scores[other][c] == scores[video][c] and p <= place)
                ]  # fmt: skip
                precisions.append(sum(has[other] for other in at_least) / len(at_least))
        ap.append(np.mean(precisions) if precisions else np.nan)
    return np.array(ap)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_equals_the_plain_rule(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(10):
        truth, predictions = {}, {}
        for number in range(int(rng.integers(1, 25))):
            actions = [(int(rng.integers(5)), 0.0, 1.0) for _ in range(rng.integers(0, 4))]
            truth[f"V{number}"] = Truth(actions, 30.0)
            if rng.random() < 0.8:
                predictions[f"V{number}"] = rng.random((int(rng.integers(1, 26)), 5)).round(decimals)
        expected = plain_rule(predictions, truth, 5)
        np.testing.assert_allclose(classify(predictions, truth, 5), expected, rtol=0, atol=1e-14)


def test_real_ground_truth_and_predictions(golden, annotations):
    predictions = read_predictions(golden / "localize/submission.txt.gz")
    truth = read_ground_truth(annotations / "Charades_v1_test.csv", 157)
    some = {video: truth[video] for video in [*predictions, *list(truth)[-200:]]}
    assert sum(not known.actions for known in some.values()) > 0
    np.testing.assert_allclose(classify(predictions, some, 157), plain_rule(predictions, some, 157), rtol=0, atol=1e-14)
    assert not np.isnan(classify(predictions, truth, 157)).any()


def test_the_maximum_over_time_decides_and_times_of_actions_do_not():
    truth = {"A": Truth([(0, 99.0, 98.0)], 5.0), "B": Truth([(1, 0.0, 1.0)], 5.0)}
    brief = np.zeros((25, 2))
    brief[17, 0] = 0.9
    steady = np.full((25, 2), 0.5)
    assert classify({"A": brief, "B": steady}, truth, 2).tolist() == [1, 1]
    assert classify({"A": brief * 0.5, "B": steady}, truth, 2).tolist() == [0.5, 1]


def test_a_video_without_any_action_ranks_last():
    truth = {"A": Truth([], 5.0), "B": Truth([(0, 0.0, 1.0)], 5.0)}
    predictions = {"A": np.full((25, 1), 0.9), "B": np.full((25, 1), 0.1)}
    assert classify(predictions, truth, 1) == [1]
    assert classify({}, truth, 1) == [0.5]  # both -inf: in the ground truth's order


def test_undefined_classes():
    ap = classify({}, {"A": Truth([(1, 0.0, 0.0)], 5.0)}, 3)
    np.testing.assert_array_equal(ap, [np.nan, 1, np.nan])
    assert np.isnan(classify({}, {"A": Truth([], 5.0)}, 1)).all()
    with pytest.raises(InputError, match="no video"):
        classify({}, {}, 1)
