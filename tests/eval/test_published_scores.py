"""Scores in the published code's form: read, scored, converted, refused."""

import re

import numpy as np
import pytest

from common.errors import InputError
from eval import charades_localize, convert
from eval.charades_localize import localize, read_ground_truth
from eval.published_scores import is_published, position, read_published
from eval.submission import write_predictions

DURATIONS = {"AAA": 30.0, "BBB": 16.62, "CCC": 31.29}
CLASSES = 4


@pytest.fixture
def truth_file(tmp_path):
    path = tmp_path / "truth.csv"
    actions = {
        "AAA": "c000 1.00 9.00;c003 0.00 30.00",
        "BBB": "c001 2.00 12.00",
        "CCC": "c002 0.50 20.00;c001 8.00 9.00",
    }
    rows = [f"{video},{actions[video]},{length}" for video, length in DURATIONS.items()]
    path.write_text("\n".join(["id,actions,length", *rows]) + "\n")
    return path


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return {video: rng.random((25, CLASSES), np.float32) for video in DURATIONS}


def write_as_published(path, scores, end="\n", durations=DURATIONS):
    """As the published stage 3 does it: str() of every float32."""
    with path.open("w", newline="") as file:
        for video, frames in scores.items():
            for i, row in enumerate(frames):
                file.write(f"{video},{1 + i * durations[video] / 25},{' '.join(str(x) for x in row)}{end}")
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_scores_are_read_exactly(tmp_path, scores, end):
    path = write_as_published(tmp_path / "scores.csv", scores, end)
    assert is_published(path)
    read = read_published(path, DURATIONS)
    assert read.keys() == scores.keys()
    for video in scores:
        np.testing.assert_array_equal(read[video].astype(np.float32), scores[video])


def test_scored_as_the_submission_is(tmp_path, truth_file, scores, capsys):
    path = write_as_published(tmp_path / "scores.csv", scores)
    assert charades_localize.main([str(path), str(truth_file)]) == 0
    shown = capsys.readouterr().out
    result = localize({v: x.astype(float) for v, x in scores.items()}, read_ground_truth(truth_file), CLASSES)
    assert f"mAP  {100 * result.mAP:.2f} %  (fraction {result.mAP:.6f})" in shown


def test_missing_rows_score_minus_infinity(tmp_path, truth_file, scores, capsys):
    del scores["BBB"]
    path = write_as_published(tmp_path / "scores.csv", scores)
    path.write_text("\n".join(path.read_text().splitlines()[3:]) + "\n")
    assert np.isneginf(read_published(path, DURATIONS)["AAA"][:3]).all()
    assert charades_localize.main([str(path), str(truth_file)]) == 0
    assert "28 of 75 frames have no prediction: -inf" in capsys.readouterr().out


def test_videos_outside_the_ground_truth_are_reported(tmp_path, truth_file, scores, capsys):
    durations = DURATIONS | {"XXX": 7.0}
    path = write_as_published(tmp_path / "scores.csv", scores | {"XXX": scores["AAA"]}, durations=durations)
    assert charades_localize.main([str(path), str(truth_file)]) == 0
    assert "1 predicted videos are not in the ground truth, ignored: XXX" in capsys.readouterr().out


def test_positions_within_a_hundredth_of_a_step(tmp_path):
    path = tmp_path / "scores.csv"
    step = DURATIONS["AAA"] / 25
    path.write_text(f"AAA,{position(25, 30.0) + 0.009 * step},0.5 0.25\n")
    assert read_published(path, DURATIONS)["AAA"][24].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            f"AAA,{position(3, 30.0) + 0.02 * 1.2},1 2",
            "scores.csv:2: position 3.424 of video AAA matches none of its 25",
        ),
        ("AAA,31.0,1 2", "scores.csv:2: position 31.0 of video AAA matches none of its 25 frames"),
        ("AAA,-0.2,1 2", "matches none of its 25 frames"),
        ("AAA,first,1 2", "position first of video AAA"),
        ("AAA,nan,1 2", "position nan of video AAA"),
        ("AAA,1.0,1 2", "scores.csv:2: frame 1 of video AAA already has scores in line 1"),
        ("AAA,2.2,1 2 3", "scores.csv:2: 3 scores, expected 2"),
        ("AAA,2.2,1 x", "scores.csv:2: could not convert string to float: 'x'"),
        ("AAA,2.2,1 nan", "scores.csv:2: NaN score for video AAA, frame 2"),
        ("AAA,2.2", "scores.csv:2: not of the form `id,position,score score ...`"),
        ("AAA,2.2,1 2,3", "not of the form"),
    ],
)
def test_wrong_rows_are_named(tmp_path, line, message):
    path = tmp_path / "scores.csv"
    path.write_text(f"AAA,1.0,0.5 0.5\n{line}\n")
    with pytest.raises(InputError, match=re.escape(message)):
        read_published(path, DURATIONS)


def test_other_videos_are_refused(tmp_path, truth_file, scores, capsys):
    path = write_as_published(tmp_path / "s.csv", {"YYY": scores["AAA"]}, durations={"YYY": 5.0})
    assert charades_localize.main([str(path), str(truth_file)]) == 1
    assert "none of its videos is in the ground truth" in capsys.readouterr().err


@pytest.mark.parametrize("found", [156, 158, 65])
def test_charades_has_157_classes(tmp_path, found, capsys):
    truth = tmp_path / "truth.csv"
    truth.write_text("id,actions,length\nAAA,c156 1.00 9.00,30.0\n")
    path = tmp_path / "s.csv"
    path.write_text(f"AAA,1.0,{' '.join(['0.5'] * found)}\n")
    assert charades_localize.main([str(path), str(truth)]) == 1
    assert f"s.csv:1: {found} scores, expected 157" in capsys.readouterr().err


def test_converted_and_back_digit_by_digit(tmp_path, truth_file, scores, capsys):
    path = write_as_published(tmp_path / "scores.csv", scores)
    official, again = tmp_path / "official.txt", tmp_path / "again.csv"
    assert convert.main([str(path), str(truth_file), str(official)]) == 0
    assert official.read_text().splitlines()[0] == "AAA 1 " + " ".join(str(x) for x in scores["AAA"][0])
    assert convert.main([str(official), str(truth_file), str(again)]) == 0
    assert again.read_text() == path.read_text()
    assert capsys.readouterr().out.endswith("again.csv: 75 frames of 3 videos\n")


def test_submissions_that_count_from_zero_are_converted(tmp_path, truth_file, scores):
    official, from_zero = tmp_path / "official.txt", tmp_path / "zero.txt"
    write_predictions(official, scores)
    fields = [line.split() for line in official.read_text().splitlines()]
    from_zero.write_text("\n".join(f"{v} {int(k) - 1} {' '.join(s)}" for v, k, *s in fields))
    for file in (official, from_zero):
        assert convert.main([str(file), str(truth_file), str(file.with_suffix(".csv"))]) == 0
    assert official.with_suffix(".csv").read_text() == from_zero.with_suffix(".csv").read_text()


def test_a_conversion_refuses_to_lose_videos_or_its_input(tmp_path, truth_file, scores, capsys):
    path = tmp_path / "official.txt"
    write_predictions(path, scores | {"XXX": scores["AAA"]})
    assert convert.main([str(path), str(truth_file), str(tmp_path / "o.csv")]) == 1
    assert "1 video not in the ground truth: XXX; " in capsys.readouterr().err
    assert convert.main([str(path), str(truth_file), str(path)]) == 1
    assert not (tmp_path / "o.csv").exists()
