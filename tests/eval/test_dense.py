"""Rule "dense": equal to a step-by-step computation, and agreement with the metrics of training."""

import numpy as np
import pytest

from common.errors import InputError
from eval.charades_localize import Truth
from eval.dense import Steps, read_steps, rows, step_labels
from eval.detection import DetectionEvaluator
from eval.per_frame import frame_ap

C = 4
TRUTH = {
    "A": Truth([(0, 0.0, 2.0), (1, 1.5, 9.0), (0, 7.0, 7.5)], 10.0),
    "B": Truth([(2, 3.0, 300.0), (1, 0.0, 0.0)], 20.0),
    "C": Truth([], 5.0),
}


def plain_rule(predictions, truth):
    """AP of every class: the precision at each positive step, counted over all steps of all videos."""
    steps = []  # (scores, time, actions) of every step
    for video, (actions, length) in truth.items():
        scores, seconds = predictions[video]
        for k, row in enumerate(scores):
            steps.append((row, k * length / len(scores) if seconds is None else seconds[k], actions))
    aps = []
    for c in range(C):
        positive = [any(name == c and start < t < end for name, start, end in actions) for _, t, actions in steps]
        ranked = sorted(range(len(steps)), key=lambda i: -steps[i][0][c])
        precisions = [
            sum(positive[i] for i in ranked[:rank]) / rank
            for rank in range(1, len(steps) + 1) if positive[ranked[rank - 1]]
        ]  # fmt: skip
        aps.append(sum(precisions) / len(precisions) if precisions else 0.0)
    return np.array(aps)


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("timed", [False, True])
def test_equals_the_plain_rule(decimals, timed):
    rng = np.random.default_rng(decimals)
    for _ in range(10):
        predictions = {}
        for video, (_, length) in TRUTH.items():
            F = int(rng.integers(1, 40))
            seconds = np.sort(rng.random(F) * length) if timed else None
            predictions[video] = Steps(rng.random((F, C)).round(decimals), seconds)
        ap, mean = frame_ap(*rows(predictions, TRUTH, C))
        expected = plain_rule(predictions, TRUTH)
        np.testing.assert_allclose(np.nan_to_num(ap), expected, rtol=0, atol=1e-14)
        assert np.isnan(ap[3])
        assert mean == pytest.approx(expected.mean(), abs=1e-14)


def test_longer_videos_weigh_more_and_ends_do_not_belong_to_an_action():
    labels = step_labels([(0, 1.0, 3.0), (1, -1.0, 0.5), (0, 4.5, 4.6)], np.arange(6.0), 3)
    assert np.flatnonzero(labels[:, 0]).tolist() == [2]
    assert np.flatnonzero(labels[:, 1]).tolist() == [0]
    assert not labels[:, 2].any()


def test_is_what_training_reports_as_map_frames(tmp_path):
    """Labels from frame counts, as training makes them, and from the steps' times, as this rule does."""
    rng = np.random.default_rng(0)
    evaluator = DetectionEvaluator(num_classes=C, truth=TRUTH, min_frames=0, all_frames=True)
    predictions = {}
    for video, (actions, length) in TRUTH.items():
        n = int(rng.integers(100, 200))
        seconds = np.arange(n // 10 * 10) * length / n
        scores = rng.random((len(seconds), C), dtype=np.float32)
        predictions[video] = Steps(scores, seconds)
        evaluator.add(video, scores, step_labels(actions, seconds, C), num_frames=n)
    assert evaluator.finish(tmp_path)["mAP_frames"] == frame_ap(*rows(predictions, TRUTH, C))[1]


def test_every_video_needs_predictions():
    with pytest.raises(InputError, match="2 of 3 videos of the ground truth have no predictions: B, C"):
        rows({"A": Steps(np.zeros((3, C))), "Z": Steps(np.zeros((3, C)))}, TRUTH, C)


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "dense.npz"
    arrays = {"A": np.random.default_rng(0).random((7, C)).astype(np.float16), "B": np.zeros((2, C))}
    np.savez_compressed(path, **arrays, **{"B/seconds": np.array([0.5, 1.5])})
    read = read_steps(path)
    assert list(read) == ["A", "B"]
    np.testing.assert_array_equal(read["A"].scores, arrays["A"])
    assert read["A"].seconds is None
    assert read["B"].seconds.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no predictions"),
        ({"A": np.zeros(3)}, r"video A: an array of float64 \(3,\), not scores"),
        ({"A": np.zeros((0, 3))}, "video A: an array"),
        ({"A": np.array([["x"]])}, "video A: an array of <U1"),
        ({"A": np.array([[None]])}, "file of arrays"),  # a pickle
        ({"A": np.zeros((2, 3)), "B": np.zeros((2, 4))}, "video B: 4 scores per step, but the first video has 3"),
        ({"A": np.array([[0, np.nan]])}, "video A: contains NaN scores"),
        ({"A": np.zeros((2, 3)), "A/seconds": np.zeros(3)}, "video A: seconds must be 2 finite times"),
        ({"A": np.zeros((2, 3)), "A/seconds": np.array([0, np.nan])}, "video A: seconds must be 2 finite times"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_steps(tmp_path / "bad.npz")
    assert str(tmp_path / "bad.npz") in str(caught.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, A=np.zeros((2, 3)))
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros((2, 3)))
    for content in (b"", b"no archive", whole[:-30], whole[:60], (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match="file of arrays"):
            read_steps(path)
    with pytest.raises(FileNotFoundError):
        read_steps(tmp_path / "absent.npz")
