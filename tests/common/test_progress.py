"""Bars: on a terminal only, and never for nothing; elsewhere a line at most every half minute."""

import os
from contextlib import contextmanager, redirect_stdout, suppress
from types import SimpleNamespace

import pytest

from common import progress as progress_module
from common.progress import progress, report, say


@contextmanager
def terminal():
    """A pseudo-terminal in place of stdout; yields a list of what was shown, complete afterwards."""
    master, slave = os.openpty()
    shown = []
    with os.fdopen(slave, "w") as file:
        with redirect_stdout(file):
            yield shown
        file.flush()
        os.set_blocking(master, False)
        with suppress(BlockingIOError):
            while text := os.read(master, 1 << 16).decode():
                shown.append(text.replace("\r\n", "\n"))
    os.close(master)


def test_bar_on_a_terminal():
    with terminal() as shown:
        assert list(progress("abc", 3, "Evaluating")) == ["a", "b", "c"]
    assert "".join(shown).startswith("Evaluating\n")
    assert "3/3 [=" in "".join(shown)
    assert "".join(shown).endswith("\n")


def test_no_bar_for_an_empty_loader():
    with terminal() as shown:
        assert list(progress([], 0, "Evaluating")) == []
    assert shown == []


def test_lines_stand_below_the_bar():
    with terminal() as shown:
        for item in progress("abc", 3, "Epoch 1/2"):
            if item == "b":
                say("half of it")
    assert "\nhalf of it\n" in "".join(shown)
    assert "3/3 [=" in "".join(shown)


def test_no_bar_elsewhere(capsys):
    assert list(progress("abc", 3, "Evaluating")) == ["a", "b", "c"]
    say("a line")
    assert capsys.readouterr().out == "a line\n"


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds, which the test moves; no line has come yet."""
    now = [100.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress_module, "_pace", progress_module._Pace())
    return now


def test_signs_of_life_elsewhere(clock, capsys):
    """A log file of a long pass gets a line every half minute, one of a short pass none."""
    for seconds, title in ((9, "Looking"), (12, "Extracting")):
        for _ in progress(range(6), 6, title):
            clock[0] += seconds / 2
    assert capsys.readouterr().out == "Extracting: 5 of 6\n"


def test_reports_come_no_more_often(clock, capsys):
    """The latest report stands in for the next sign of life; what is said with `say` always comes."""
    for number in range(1, 5):
        report(f"report {number}")
        clock[0] += 5
    say("validation")
    for _ in progress(range(8), 8, "Training"):
        clock[0] += 10
    report("report 5")
    clock[0] += 30
    report("report 6")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["report 1", "validation", "report 4", "Training: 6 of 8", "report 6"]


def test_reports_on_a_terminal_all_come(clock):
    with terminal() as shown:
        report("report 1")
        report("report 2")
    assert "".join(shown).split() == ["report", "1", "report", "2"]
