"""Requests to stop: the first is remembered, one that comes twice at once counts once, a second one is obeyed."""

import os
import signal

import pytest

from common import signals
from common.signals import Stopped, deferred, requested, stop_at_once, stop_requests
from datasets.batch import outlive_a_stop


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds, which the test moves."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_is_remembered(number, clock):
    with stop_requests():
        assert requested() == 0
        signal.raise_signal(number)
        assert requested() == number
        clock[0] += 0.5  # from the terminal, and once more from the launcher
        signal.raise_signal(signal.SIGINT)
        assert requested() == number
    assert requested() == 0


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with stop_requests():
        assert [signal.getsignal(number) for number in signals.SIGNALS] != before
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_second_one_does_what_it_does_by_default(number, clock):
    child = os.fork()
    if child == 0:
        with stop_requests():
            signal.raise_signal(number)
            clock[0] += 1.5
            signal.raise_signal(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


def test_status_and_line():
    stopped = Stopped(signal.SIGINT)
    assert (stopped.status, str(stopped)) == (130, "stopped by SIGINT; run the same command to resume")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 0),
        ([signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM),
    ],
)
def test_a_worker_outlives_a_stop_but_not_two(sent, status):
    child = os.fork()
    if child == 0:
        outlive_a_stop()
        for number in sent:
            signal.raise_signal(number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status


@pytest.fixture
def complaining():
    """SIGCHLD as PyTorch handles it once a loader has had workers: an error in the main thread."""

    def complain(number, frame):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, complain)
    yield complain
    signal.signal(signal.SIGCHLD, before)


def raise_within(done: list, error: Exception | None = None) -> None:
    with deferred(signal.SIGCHLD):
        signal.raise_signal(signal.SIGCHLD)
        done.append("the rest of the work")
        if error:
            raise error


def test_a_deferred_signal_is_handled_afterwards(complaining):
    done = []
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        raise_within(done)
    assert done
    assert signal.getsignal(signal.SIGCHLD) is complaining


def test_what_fails_meanwhile_is_said_first(complaining):
    with pytest.raises(OSError, match="disk"):
        raise_within([], OSError("disk"))
    assert signal.getsignal(signal.SIGCHLD) is complaining


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_stop_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stop_at_once():
        signal.raise_signal(number)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is before


def test_nothing_to_defer():
    with deferred(signal.SIGUSR1):  # has no handler of Python's
        pass
