"""Intervals from probabilities, in closed form."""

import csv
import json

import numpy as np
import pytest

from prediction.activities import Activity, find_activities, smooth, write_csv, write_json


def test_runs_that_reach_the_threshold():
    p = np.array([[0.5, 0.9, 0.4, 0.6], [0.1, 0.2, 0.3, 0.4], [0.7, 0.7, 0.7, 0.7]])
    found = find_activities(p, threshold=0.5, fps=2.0)
    assert found == [Activity(0, 0.0, 1.0, 0.9), Activity(2, 0.0, 2.0, 0.7), Activity(0, 1.5, 2.0, 0.6)]


def test_the_best_of_many():
    p = np.array([[0.5, 0.0, 0.6, 0.0, 0.9]])
    assert [a.score for a in find_activities(p, threshold=0.5, fps=1.0, top=2)] == [0.6, 0.9]
    assert find_activities(p, threshold=0.95, fps=1.0) == []


def test_smoothing_is_a_centred_mean():
    p = np.array([[0.0, 0.0, 3.0, 0.0, 0.0, 6.0]])
    assert smooth(p, 3) == pytest.approx(np.array([[0.0, 1.0, 1.0, 1.0, 2.0, 4.0]]))
    assert smooth(p, 1) is p
    assert (smooth(p, 1e9) == smooth(p, 6)).all()


def test_files(tmp_path):
    p = np.array([[0.25, 1 / 3], [1.0, 0.0]])
    write_csv(tmp_path / "a.csv", p, ["one, two", "three"], fps=4.0)
    lines = list(csv.reader((tmp_path / "a.csv").open()))
    assert lines == [
        ["frame", "seconds", "one, two", "three"], ["1", "0.000", "0.25", "1"], ["2", "0.250", "0.3333", "0"]
    ]  # fmt: skip
    write_json(tmp_path / "a.json", {"video": "a"}, [Activity(1, 0.0, 1 / 3, 1.0)], ["one", "zwölf"])
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "video": "a",
        "activities": [{"class": 1, "name": "zwölf", "start": 0.0, "end": 0.3333, "score": 1.0}],
    }
