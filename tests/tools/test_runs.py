"""tools.runs: damaged files and files of another type are named."""

import json

import pytest

from common.errors import InputError
from tools.runs import context_classes, read_metrics

ALWAYS_THERE = ("mAP_official", "mAP_official_defined", "AP_official", "AP_released")


def test_metrics_are_those_of_an_evaluation(tmp_path):
    path = tmp_path / "metrics.json"
    metrics = dict.fromkeys(ALWAYS_THERE, 0.5) | {"AP_official": [0.5, None], "AP_released": [0.5], "loss": 1.0}
    path.write_text(json.dumps(metrics))
    assert read_metrics(path) == metrics
    for name in ALWAYS_THERE:
        path.write_text(json.dumps({key: value for key, value in metrics.items() if key != name}))
        with pytest.raises(InputError, match=rf"metrics.json: damaged \({name} "):
            read_metrics(path)


def test_context_classes_stand_beside_the_annotations(tmp_path):
    annotations = tmp_path / "annotations.json"
    assert context_classes(annotations) is None
    (tmp_path / "demo.json").write_text('{"context_classes": [3, 5]}')
    assert context_classes(annotations) == [3, 5]
    (tmp_path / "demo.json").write_text('{"context_classes": "all"}')
    with pytest.raises(InputError, match=r"demo.json: damaged"):
        context_classes(annotations)
