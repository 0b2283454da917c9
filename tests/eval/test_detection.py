"""The evaluator: files, metrics of what was written, independence of order and of processes."""

import json

import numpy as np
import pytest

from common.errors import InputError
from eval import charades_localize, dense
from eval.average_precision import average_precision
from eval.charades_localize import Truth, frame_labels, localize, read_ground_truth, read_predictions
from eval.detection import DetectionEvaluator
from eval.per_frame import frame_ap, official_frames, released_frames

C = 5
FRAMES = {"V3": 400, "V1": 163, "V4": 161, "V2": 707}  # V4 is under 162 frames


def truth_of(frames):
    """Three actions a video, at 24 frames a second; every class occurs."""
    rng = np.random.default_rng(11)
    truth = {}
    for number, (video, n) in enumerate(frames.items()):
        ends = np.sort(rng.random((3, 2)) * n / 24, axis=1).tolist()
        truth[video] = Truth([((number + k) % C, *ends[k]) for k in range(3)], n / 24)
    return truth


TRUTH = truth_of(FRAMES)


def sample(video):
    """(probabilities, labels) (L,C), the same at every call."""
    n = FRAMES[video]
    rng = np.random.default_rng(n)
    labels = np.zeros((n // 10 * 10, C), np.float32)
    for name, start, end in TRUTH[video][0]:
        seconds = np.arange(len(labels)) / 24
        labels[(start < seconds) & (seconds < end), name] = 1
    return rng.random(labels.shape, dtype=np.float32), labels


def evaluator(**options):
    return DetectionEvaluator(**{"num_classes": C, "truth": TRUTH, "all_frames": True} | options)


def filled(videos=FRAMES, **options):
    made = evaluator(**options)
    for video in videos:
        made.add(video, *sample(video), num_frames=FRAMES[video])
    return made


def contents(folder):
    return {path.name: path.read_text() for path in (folder / "predictions").iterdir()}


def test_official_file_covers_every_video_and_its_metrics_are_those_of_the_file(tmp_path):
    metrics = filled().finish(tmp_path)
    read = read_predictions(tmp_path / "predictions/official.txt", C)
    assert list(read) == list(TRUTH)
    for video, n in FRAMES.items():
        expected = sample(video)[0][official_frames(n, n // 10 * 10)]
        np.testing.assert_allclose(read[video], expected, rtol=5e-6, atol=0)
    result = localize(read, TRUTH, C)
    assert metrics["mAP_official"] == result.mAP
    assert metrics["wAP_official"] == result.wAP
    assert metrics["mAP_official_defined"] == pytest.approx(result.mAP)
    assert metrics["AP_official"] == result.AP.tolist()
    assert metrics["classes_without_positives"] == []
    assert metrics["videos_official"] == 4


def test_released_file_leaves_short_videos_out_and_numbers_frames_by_rank(tmp_path):
    metrics = filled().finish(tmp_path)
    read = read_predictions(tmp_path / "predictions/released.txt", C)
    long_enough = ["V3", "V1", "V2"]
    assert list(read) == long_enough
    scores, labels = [], []
    for video in long_enough:
        probabilities, video_labels = sample(video)
        chosen = released_frames(len(video_labels))
        np.testing.assert_allclose(read[video], probabilities[chosen], rtol=5e-6, atol=0)
        scores.append(read[video])
        labels.append(video_labels[chosen])
    ap = average_precision(np.concatenate(scores), np.concatenate(labels))
    assert metrics["AP_released"] == [None if np.isnan(value) else value for value in ap.tolist()]
    assert metrics["mAP_released"] == np.nan_to_num(ap).mean()
    assert metrics["videos_released"] == 3


def test_all_frames_only_on_request(tmp_path):
    metrics = filled().finish(tmp_path)
    samples = [sample(video) for video in ("V3", "V1", "V2")]
    ap = average_precision(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))
    assert metrics["mAP_frames"] == np.nan_to_num(ap).mean()
    assert "mAP_frames" not in filled(all_frames=False).finish(tmp_path)


def test_order_and_processes_do_not_matter(tmp_path):
    expected = filled().finish(tmp_path / "one")
    assert filled(sorted(FRAMES, reverse=True)).finish(tmp_path / "two") == expected
    first, second = filled(["V2", "V4"]), filled(["V1", "V3"])
    first.videos.update(second.videos)
    assert first.finish(tmp_path / "three") == expected
    assert contents(tmp_path / "two") == contents(tmp_path / "one") == contents(tmp_path / "three")


def test_what_is_written_decides(tmp_path):
    """Two scores that differ in the seventh digit tie in the file, so they tie in the metrics."""
    truth = {"A": Truth([(0, 0.5, 1.5)], 25.0)}  # official frame 2 alone is positive
    scores = np.full((250, 1), 0.1, np.float32)
    scores[10] = np.nextafter(np.float32(0.1), np.float32(1))
    assert scores[10] > scores[0]
    made = DetectionEvaluator(num_classes=1, truth=truth)
    made.add("A", scores, np.zeros((250, 1)), num_frames=250)
    assert made.finish(tmp_path)["mAP_official"] == 0.5


def test_later_changes_of_the_arrays_do_not_matter(tmp_path):
    expected = filled().finish(tmp_path)
    made = evaluator()
    for video, n in FRAMES.items():
        probabilities, labels = sample(video)
        made.add(video, probabilities, labels, num_frames=n)
        probabilities[:], labels[:] = 0, 0
    assert made.finish(tmp_path) == expected


def test_metrics_are_json_without_nan_and_undefined_is_null(tmp_path):
    truth = {video: Truth([action for action in actions if action[0] != 2], n) for video, (actions, n) in TRUTH.items()}
    made = evaluator(truth=truth)
    for video, n in FRAMES.items():
        probabilities, labels = sample(video)
        labels[:, 2] = 0
        made.add(video, probabilities, labels, num_frames=n)
    metrics = made.finish(tmp_path)
    json.dumps(metrics, allow_nan=False)
    assert (metrics["mAP_official"], metrics["wAP_official"]) == (None, None)
    assert metrics["classes_without_positives"] == [2]
    assert metrics["AP_official"][2] is None
    assert metrics["AP_released"][2] is None
    defined = [value for value in metrics["AP_official"] if value is not None]
    assert metrics["mAP_official_defined"] == pytest.approx(np.mean(defined))
    assert metrics["mAP_released"] == pytest.approx(sum(value or 0 for value in metrics["AP_released"]) / C)


def test_only_short_videos(tmp_path):
    metrics = filled(["V4"]).finish(tmp_path)
    assert (metrics["mAP_released"], metrics["mAP_frames"], metrics["AP_released"]) == (None, None, [None] * C)
    assert contents(tmp_path)["released.txt"] == ""
    assert metrics["mAP_official_defined"] is not None
    assert metrics["videos_without_prediction"] == 3


def test_fewer_than_25_frames(tmp_path):
    made = DetectionEvaluator(num_classes=1, truth={"A": Truth([(0, 0, 9)], 1.0), "B": Truth([], 1.0)}, min_frames=0)
    made.add("A", np.full((10, 1), 0.75), np.ones((10, 1)), num_frames=12)
    made.add("B", np.full((1, 1), 0.5), np.zeros((1, 1)), num_frames=1)
    metrics = made.finish(tmp_path)
    assert contents(tmp_path)["released.txt"].splitlines() == [f"A {k} 0.75" for k in range(1, 10)] + ["B 1 0.5"]
    assert metrics["mAP_released"] == metrics["mAP_official"] == 1.0


def test_ground_truth_from_an_official_csv(tmp_path, capsys):
    path = tmp_path / "truth.csv"
    rows = [
        f"{video},{';'.join(f'c{c:03d} {start!r} {end!r}' for c, start, end in actions)},{length!r}"
        for video, (actions, length) in TRUTH.items()
    ]
    path.write_text("\n".join(["id,actions,length", *rows]) + "\n")
    from_csv = filled(truth=read_ground_truth(path, C)).finish(tmp_path)
    assert from_csv == filled().finish(tmp_path)
    assert charades_localize.main([str(tmp_path / "predictions/official.txt"), str(path)]) == 0
    assert f"(fraction {from_csv['mAP_official']:.6f})" in capsys.readouterr().out


def test_videos_on_one_side_only_are_counted(tmp_path):
    expected = filled(["V1", "V2"], truth={v: TRUTH[v] for v in ("V1", "V2")}).finish(tmp_path)
    more = filled(["V2", "V4", "V1"], truth={v: TRUTH[v] for v in ("V1", "V2")}).finish(tmp_path)
    assert more["videos_not_in_ground_truth"] == 1
    assert more["mAP_official_defined"] == expected["mAP_official_defined"]
    assert list(read_predictions(tmp_path / "predictions/official.txt")) == ["V1", "V2", "V4"]

    fewer = filled(["V1", "V2"]).finish(tmp_path)
    assert fewer["videos_without_prediction"] == 2
    read = read_predictions(tmp_path / "predictions/official.txt")
    assert fewer["mAP_official"] == localize(read, TRUTH, C).mAP


def test_is_empty_again_after_finish(tmp_path):
    made = filled()
    expected = made.finish(tmp_path)
    with pytest.raises(InputError, match="no videos were evaluated"):
        made.finish(tmp_path)
    for video in FRAMES:
        made.add(video, *sample(video), num_frames=FRAMES[video])
    assert made.finish(tmp_path) == expected


def test_what_cannot_be_scored_is_named():
    made = evaluator()
    probabilities, labels = sample("V1")
    probabilities[7, 3] = np.nan
    with pytest.raises(InputError, match="video V1: the network outputs NaN"):
        made.add("V1", probabilities, labels, num_frames=163)
    with pytest.raises(ValueError, match="video V1: probabilities"):
        made.add("V1", probabilities[:, :4], labels, num_frames=163)
    with pytest.raises(ValueError, match="video V1: probabilities"):
        made.add("V1", probabilities[:0], labels[:0], num_frames=163)
    made.add("V2", *sample("V2"), num_frames=707)
    with pytest.raises(ValueError, match="V2 was added twice"):
        made.add("V2", *sample("V2"), num_frames=707)
    with pytest.raises(InputError, match=r"ground truth: video A has class 5, outside 0\.\.4"):
        evaluator(truth={"A": Truth([(5, 0.0, 1.0)], 9.0)})


def test_the_published_probabilities_pass_through_released_txt(golden, tmp_path):
    """The published 25 outputs, placed at the released frames among others, are what released.txt holds."""
    expected = np.load(golden / "pipeline/expected.npz")
    made = DetectionEvaluator(num_classes=157, truth=read_ground_truth(golden / "pipeline/Charades_v1_test.csv"))
    scores, chosen_labels = [], []
    for video in made.truth:
        length = int(expected[f"{video}/labelshape"][1])
        labels = np.unpackbits(expected[f"{video}/label"], axis=1)[:, :length].T
        assert labels.any()
        probabilities = np.ones((length, 157), np.float32)
        probabilities[released_frames(length)] = expected[f"{video}/probs25"]
        made.add(video, probabilities, labels, num_frames=length)
        scores.append(expected[f"{video}/probs25"])
        chosen_labels.append(labels[released_frames(length)])
    metrics = made.finish(tmp_path)
    read = read_predictions(tmp_path / "predictions/released.txt")
    assert list(read) == list(made.truth)
    np.testing.assert_allclose(np.stack(list(read.values())), np.stack(scores), rtol=5e-6, atol=0)
    ap = average_precision(scores, chosen_labels)
    assert metrics["mAP_released"] == pytest.approx(np.nan_to_num(ap).mean(), abs=1e-3)
    official_positives = sum(frame_labels(*known, 157).sum(0) for known in made.truth.values())
    assert metrics["classes_without_positives"] == np.flatnonzero(official_positives == 0).tolist()


def test_saved_frames_give_the_metric_of_all_frames(tmp_path):
    """Short videos are in the file, but not in the metric; without the option there is no file."""
    metrics = filled(save_frames=True).finish(tmp_path)
    steps = dense.read_steps(tmp_path / "predictions/dense.npz")
    assert list(steps) == list(TRUTH)
    for video, n in FRAMES.items():
        np.testing.assert_array_equal(steps[video].scores, sample(video)[0])
        np.testing.assert_array_equal(steps[video].seconds, np.arange(n // 10 * 10) * TRUTH[video].length / n)
    ap, mean = frame_ap(*dense.rows(steps, {video: TRUTH[video] for video, n in FRAMES.items() if n >= 162}, C))
    assert metrics["mAP_frames"] == pytest.approx(mean, abs=1e-12)
    assert metrics["AP_frames"] == pytest.approx(ap.tolist(), abs=1e-12)
    filled().finish(tmp_path / "other")
    assert not (tmp_path / "other/predictions/dense.npz").exists()


def test_any_video_name_can_be_saved(tmp_path):
    steps = {"file": dense.Steps(np.ones((2, 3))), "a.b": dense.Steps(np.zeros((1, 3)), np.zeros(1))}
    dense.write_steps(tmp_path / "dense.npz", steps)
    read = dense.read_steps(tmp_path / "dense.npz")
    assert list(read) == ["file", "a.b"]
    assert read["a.b"].seconds.tolist() == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["dense.npz"]
