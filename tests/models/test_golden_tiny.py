"""The committed numbers of tests/golden/tiny.json, met in double precision; see tests/golden/make_tiny.py."""

import json

import pytest
import torch

from tests.golden.make_tiny import CASES, PATH, run_case

STORED = json.loads(PATH.read_text())


def compare(actual, expected, tolerance, where=""):
    """Nested dictionaries and lists of numbers."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            compare(actual[key], expected[key], tolerance, f"{where} {key}")
    else:
        expected = torch.tensor(expected, dtype=torch.float64)
        actual = torch.tensor(actual, dtype=torch.float64)
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(actual, expected, **close, msg=lambda text: f"{where}: {text}")


@pytest.mark.parametrize("index", range(len(CASES["fine"])))
def test_fine_stream(index):
    check("fine", index)


@pytest.mark.parametrize("index", range(len(CASES["coarse"])))
def test_coarse_stream(index):
    check("coarse", index)


def check(kind, index):
    stored = dict(STORED[kind][index])
    case = {name: stored.pop(name) for name in ("net", "inputs")}
    assert case == CASES[kind][index], "tiny.json belongs to other cases: make it again"
    actual = run_case(kind, case, stored.pop("seed"))
    gradients = actual.pop("gradients"), stored.pop("gradients")
    compare(actual, stored, 1e-7)
    compare(*gradients, 1e-5)
