"""What README.md names exists."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
TESTS = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", README)))
FILES = sorted(
    set(re.findall(r"(?:configs|docs|tests|tools|models|datasets|eval|engine)/[\w/]+\.(?:py|yaml|md|png|json)", README))
)


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_a_promise_has_its_test(file, test):
    assert f"\ndef {test}(" in (PROJECT / "tests" / file).read_text()


@pytest.mark.parametrize("file", FILES)
def test_files(file):
    assert (PROJECT / file).is_file() or (PROJECT / "tests" / file).is_file()
