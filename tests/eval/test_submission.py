"""The submission file: what is read, what is written, and one line for everything that cannot be read."""

import gzip

import numpy as np
import pytest

from common.errors import InputError
from eval.submission import read_predictions, write_predictions


def written(tmp_path, *lines):
    path = tmp_path / "submission.txt"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_reads_lines_in_any_order_and_leaves_the_rest_minus_infinity(tmp_path):
    path = written(tmp_path, "B 25 0.5 -inf", "", "A 2  1e-3\t7", "A 1 0.25 1 ")
    read = read_predictions(path)
    assert list(read) == ["B", "A"]
    assert read["A"].dtype == np.float64
    assert read["A"].shape == (25, 2)
    assert read["A"][:2].tolist() == [[0.25, 1.0], [0.001, 7.0]]
    assert read["B"][24].tolist() == [0.5, -np.inf]
    assert np.isneginf(read["A"][2:]).all()
    assert np.isneginf(read["B"][:24]).all()


def test_frames_from_zero_are_shifted(tmp_path):
    read = read_predictions(written(tmp_path, "A 24 0.5", "B 0 0.25", "B 24 0.75"))
    assert read["A"][24, 0] == 0.5
    assert (read["B"][0, 0], read["B"][24, 0]) == (0.25, 0.75)


def test_one_score_too_many_is_ignored(tmp_path):
    row = " ".join(["0.5"] * 157)
    path = written(tmp_path, f"A 1 {row} 9", f"A 2 {row}")
    for read in (read_predictions(path), read_predictions(path, 157)):
        assert read["A"].shape == (25, 157)
        assert (read["A"][:2] == 0.5).all()
    assert read_predictions(written(tmp_path, "A 1 0.5 0.25 9"), 2)["A"].shape == (25, 2)


def test_gzip_is_read_whatever_its_name(tmp_path):
    path = tmp_path / "submission.txt"
    path.write_bytes(gzip.compress(b"A 1 0.5\n"))
    assert read_predictions(path)["A"][0, 0] == 0.5
    path.write_bytes(gzip.compress(b"A 1 0.5\n" * 1000)[:-12])
    with pytest.raises(InputError, match=r"submission\.txt: not a complete gzip"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("A 1 0.5 0.5", "A 2 0.5"), ":2: 1 scores, expected 2"),
        (("A 1 0.5", "", "A 2 0.5 0.5 0.5"), ":3: 3 scores, expected 1"),
        (("A 1 0.5", "A"), ":2: not of the form `id frame score"),
        (("A 1",), ":1: 0 scores, expected at least 1"),
        (("A 1 0.5 0.5", "A 2 0.5 0,5"), ":2: could not convert string to float: '0,5'"),
        (("A 1 0.5.3",), ":1: could not convert string to float: '0.5.3'"),
        (("A 1.0 0.5",), r":1: not of the form .*'1\.0'"),
        (("A 1 0.5", "A 26 0.5"), r":2: frame 26 of video A is outside 1\.\.25"),
        (("A 0 0.5", "A 25 0.5"), r":2: frame 25 of video A is outside 0\.\.24"),
        (("A 1 0.5", "A -1 0.5"), r":2: frame -1 of video A is outside 1\.\.25"),
        (("A 1 0.5", "A 2 nan"), ":2: NaN score for video A, frame 2"),
        (("A 1 0.5", "B 1 0.5", "A 1 0.25"), ":3: frame 1 of video A already has scores in line 1"),
        ((), "no predictions"),
        (("", " "), "no predictions"),
    ],
)
def test_what_cannot_be_read_is_named_with_file_and_line(tmp_path, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(written(tmp_path, *lines))
    assert str(caught.value).startswith(str(tmp_path / "submission.txt"))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "submission.txt"
    path.write_bytes(b"A 1 0.5\n\xff\xfe 1 0.5\n")
    with pytest.raises(InputError, match=r":2: not of the form .* can't decode byte 0xff"):
        read_predictions(path)


def test_written_files_read_back_to_six_digits(tmp_path):
    rng = np.random.default_rng(0)
    scores = {"B": rng.random((25, 4), dtype=np.float32), "A": rng.random((3, 4), dtype=np.float32) * 1e-7}
    path = tmp_path / "new" / "predictions.txt"
    write_predictions(path, scores)
    assert path.read_text().splitlines()[25] == "A 1 " + " ".join(f"{score:.6g}" for score in scores["A"][0].tolist())
    read = read_predictions(path)
    assert list(read) == ["B", "A"]
    np.testing.assert_allclose(read["B"], scores["B"], rtol=5e-6, atol=0)
    np.testing.assert_allclose(read["A"][:3], scores["A"], rtol=5e-6, atol=0)
    assert np.isneginf(read["A"][3:]).all()
    assert [name.name for name in path.parent.iterdir()] == ["predictions.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = written(tmp_path, "A 1 0.5")
    before = path.read_text()
    for broken in (np.full((1, 1), np.nan), np.zeros((26, 1))):
        with pytest.raises(ValueError, match="video B"):
            write_predictions(path, {"A": np.zeros((1, 1)), "B": broken})
    with pytest.raises(InputError, match="space"):
        write_predictions(path, {"A B": np.zeros((1, 1))})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
