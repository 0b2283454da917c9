"""The official rule: equal to the official evaluator on real ground truth, and its rules one by one."""

import json
import re

import numpy as np
import pytest

from common.errors import InputError
from eval import charades_localize
from eval.charades_localize import Truth, frame_labels, localize, read_ground_truth, read_predictions

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def csv_file(tmp_path, *rows):
    """An official-form CSV of (id, actions, length) rows."""
    path = tmp_path / "truth.csv"
    path.write_text(HEADER + "".join(f'{video},,,,,,"a, b",,,{actions},{length}\n' for video, actions, length in rows))
    return path


def predictions_file(tmp_path, videos, num_classes, *, frames=range(1, 26)):
    """The same for every seed-less call: scores that differ from line to line."""
    rng = np.random.default_rng(len(videos) * num_classes)
    path = tmp_path / "predictions.txt"
    lines = (f"{v} {f} " + " ".join(f"{s:.4f}" for s in rng.random(num_classes)) for v in videos for f in frames)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_equals_the_official_evaluator(golden, annotations):
    expected = json.loads((golden / "localize/expected.json").read_text())
    predictions = read_predictions(golden / "localize/submission.txt.gz")
    truth = read_ground_truth(annotations / "Charades_v1_test.csv", 157)
    result = localize(predictions, truth, 157)
    assert result.mAP == pytest.approx(expected["mAP"], abs=1e-9)
    np.testing.assert_allclose(result.AP, expected["AP"], rtol=0, atol=1e-9)
    assert result.missing_frames == 25 * (1863 - 40)
    assert result.classes_without_positives == []
    positives = sum(frame_labels(*video, 157).sum(0) for video in truth.values())
    assert result.wAP == pytest.approx(np.average(expected["AP"], weights=positives), abs=1e-9)


def test_main_prints_percent_and_fraction(golden, annotations, capsys):
    arguments = [str(golden / "localize/submission.txt.gz"), str(annotations / "Charades_v1_test.csv")]
    assert charades_localize.main(arguments) == 0
    printed = capsys.readouterr().out
    expected = json.loads((golden / "localize/expected.json").read_text())["mAP"]
    assert f"mAP  {100 * expected:.2f} %  (fraction {expected:.6f})" in printed
    assert "wAP  5.54 %" in printed
    assert "45575 of 46575 frames have no prediction" in printed


def test_both_ends_of_an_action_belong_to_it():
    labels = frame_labels([(0, 2.0, 4.0), (2, 2.01, 3.99), (1, 24.0, 99.0), (3, 5.0, 4.0)], 25.0, 4)
    assert labels.shape == (25, 4)
    assert np.flatnonzero(labels[:, 0]).tolist() == [2, 3, 4]  # frame j, 0-based, is at j seconds
    assert np.flatnonzero(labels[:, 1]).tolist() == [24]
    assert np.flatnonzero(labels[:, 2]).tolist() == [3]
    assert not labels[:, 3].any()


def test_two_actions_of_a_class_are_joined():
    labels = frame_labels([(0, 0.0, 1.0), (0, 20.0, 21.0)], 25.0, 1)
    assert np.flatnonzero(labels).tolist() == [0, 1, 20, 21]


def test_ties_and_missing_frames_rank_in_the_order_of_the_ground_truth():
    """Two videos without any score: all 50 frames tie, and the positive's rank is its place in the ground truth."""
    action, nothing = Truth([(0, 10.0, 10.0)], 25.0), Truth([], 25.0)
    assert localize({}, {"B": nothing, "A": action}, 1).mAP == pytest.approx(1 / 36)
    assert localize({}, {"A": action, "B": nothing}, 1).mAP == pytest.approx(1 / 11)
    some = {"B": np.full((25, 1), 0.5)}
    assert localize(some, {"A": action, "B": nothing}, 1).mAP == pytest.approx(1 / 36)
    assert localize(some, {"A": action, "B": nothing}, 1).missing_frames == 25


def test_weighted_mean_and_unknown_videos():
    truth = {"A": Truth([(0, 0.0, 0.0), (1, 0.0, 2.0)], 25.0)}
    scores = np.zeros((25, 2))
    scores[1, 0] = 1  # class 0: its only positive, frame 0, comes second
    result = localize({"Z": scores, "A": scores}, truth, 2)
    assert result.AP.tolist() == [0.5, 1.0]
    assert result.mAP == 0.75
    assert result.wAP == pytest.approx((0.5 * 1 + 1.0 * 3) / 4)
    assert result.unknown_videos == ["Z"]


def test_a_class_without_positives_leaves_map_undefined():
    result = localize({}, {"A": Truth([(1, 0.0, 0.0)], 25.0)}, 3)
    assert (result.mAP, result.wAP, result.mAP_defined) == (None, None, 1.0)
    assert result.classes_without_positives == [0, 2]
    assert localize({}, {"A": Truth([], 25.0)}, 2).mAP_defined is None
    with pytest.raises(InputError, match="no video"):
        localize({}, {}, 2)


def test_reads_the_real_ground_truth(annotations):
    truth = read_ground_truth(annotations / "Charades_v1_test.csv", 157)
    assert len(truth) == 1863
    assert next(iter(truth)) == "YSKX3"
    assert truth["YSKX3"].length == 16.62
    assert truth["YSKX3"].actions[0] == (77, 12.1, 18.0)
    assert len(read_ground_truth(annotations / "Charades_v1_train.csv", 157)) == 7985


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", "c000 0 1", 9), ("A", "", 9)], "video A occurs twice"),
        ([("A", "c003 0 1", 9), ("B", "c004 0 1", 9)], r"video B has class 4, outside 0\.\.3"),
        ([("A", "c000 0", 9)], "video A: action 'c000 0' is not of the form"),
        ([("A", "c000 0 x", 9)], "video A: action 'c000 0 x'"),
        ([("A", "c000 nan 1", 9)], "video A: action 'c000 nan 1'"),
        ([("A", "c-1 0 1", 9)], "video A: action 'c-1 0 1'"),
        ([("A", "", "long")], "video A: length 'long'"),
        ([("A", "", "")], "video A: length ''"),
        ([("A", "", "-1")], "video A: length '-1'"),
        ([("A", "", "nan")], "video A: length 'nan'"),
    ],
)
def test_bad_ground_truth_names_file_and_video(tmp_path, rows, message):
    path = csv_file(tmp_path, *rows)
    with pytest.raises(InputError, match=message) as caught:
        read_ground_truth(path, 4)
    assert str(path) in str(caught.value)


def test_files_that_are_no_ground_truth(tmp_path):
    path = tmp_path / "truth.csv"
    for content, message in ((b"", "no column actions, id, length"), (b"id,length\n", "no column actions"),
                             (b"id,actions,length\n\xff,,1\n", "not a CSV")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_ground_truth(path)


def test_ends_beyond_the_length_or_before_the_start_are_no_errors(tmp_path):
    truth = read_ground_truth(csv_file(tmp_path, ("A", "c000 3.0 99.0;c001 4.0 2.0", 9.0)), 2)
    assert truth == {"A": ([(0, 3.0, 99.0), (1, 4.0, 2.0)], 9.0)}


def test_main_with_other_classes_than_charades(tmp_path, capsys):
    truth = csv_file(tmp_path, ("A", "c000 0 9;c001 2 3", 9), ("B", "c002 1 2", 8))
    assert charades_localize.main([str(predictions_file(tmp_path, ["A", "B", "C"], 3)), str(truth)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^mAP  \d+\.\d\d %  \(fraction 0\.\d{6}\)$", printed, re.MULTILINE)
    assert "1 predicted videos are not in the ground truth, ignored: C" in printed
    assert charades_localize.main([str(predictions_file(tmp_path, ["A", "B"], 4)), str(truth)]) == 0
    assert "undefined, classes without positives: c003" in capsys.readouterr().out


def test_main_exits_1_with_one_line(tmp_path, capsys):
    truth = csv_file(tmp_path, ("A", "c003 0 9", 9))
    predictions = predictions_file(tmp_path, ["A"], 3)
    cases = [
        ([str(tmp_path / "absent.txt"), str(truth)], "absent.txt"),
        ([str(predictions), str(tmp_path / "absent.csv")], "absent.csv"),
        ([str(predictions), str(truth)], "video A has class 3"),
        ([str(predictions), str(truth), "--num_classes", "157"], "predictions.txt:1: 3 scores, expected 157"),
    ]
    for arguments, message in cases:
        assert charades_localize.main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.txt"], "required: ground_truth"),
        (["one.txt", "two.csv", "--num-classes", "0"], "--num_classes: '0' is not a whole number of at least 1"),
        (["one.txt", "two.csv", "--classes", "3"], "unrecognized arguments: --classes 3"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        charades_localize.main(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
