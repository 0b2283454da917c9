"""The files of a video's prediction."""

import csv
import json

import numpy as np

from prediction.activities import Activity
from prediction.results import write_csv, write_json


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
