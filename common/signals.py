"""Stopping in good order: SIGTERM and SIGINT ask a run to save and leave; a second one makes it leave at once."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_SECONDS = 1.0  # Ctrl-C reaches a launcher and its processes, which then hear of it twice


class Stopped(Exception):  # noqa: N818 - not an error
    """The work was asked to stop, and what it has done is saved; `status` is the exit status, 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command continues")
        self.status = 128 + number


_number, _heard = 0, 0.0  # the signal that has asked this process to stop, 0 for none, and when


def requested() -> int:
    """The signal that has asked this process to stop, 0 for none."""
    return _number


def _remember(number: int, frame: FrameType | None) -> None:
    """The first signal; a second one does what it does by default."""
    global _number, _heard
    now = time.monotonic()
    if _number and now - _heard > SAME_REQUEST_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if not _number:
        _number, _heard = number, now


@contextmanager
def stop_requests() -> Iterator[None]:
    """Listen for signals within the context; outside it they do what they did before."""
    global _number
    try:
        with _handled_by(_remember):
            yield
    finally:
        _number = 0


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Within the context a signal raises `Stopped` there and then: for work whose every file is written whole."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Handler, numbers: Iterable[int] = SIGNALS) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def is_dead_worker(error: BaseException) -> bool:
    """Whether an error says that a loader's worker has died; what a worker raises arrives as it was raised.

    PyTorch raises it from its SIGCHLD handler, wherever the main thread happens to be. It is a plain RuntimeError, of
    which only the text tells.
    """
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def deferred(number: int) -> Iterator[None]:
    """Within the context a signal only waits; what handles it runs afterwards."""
    handler = signal.getsignal(number)
    if not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    with _handled_by(lambda *call: came.append(call), (number,)):
        yield
    if came:
        handler(*came[-1])
