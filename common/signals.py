"""Graceful stopping: SIGTERM and SIGINT ask a run to save and exit; a second signal exits immediately."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_SECONDS = 1.0  # Ctrl-C reaches the launcher and its processes, which thus receive it twice


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal stopped the work, and its state is saved. `status` is the exit status, 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command to resume")
        self.status = 128 + number


_number, _heard = 0, 0.0  # the signal that requested a stop (0: none), and its time


def requested() -> int:
    """The signal that asked this process to stop, or 0."""
    return _number


def _remember(number: int, frame: FrameType | None) -> None:
    """Store the first signal; a second one gets its default handler."""
    global _number, _heard
    now = time.monotonic()
    if _number and now - _heard > SAME_REQUEST_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if not _number:
        _number, _heard = number, now


@contextmanager
def stop_requests() -> Iterator[None]:
    """Record stop signals within the context; the previous handlers are restored on exit."""
    global _number
    try:
        with _handled_by(_remember):
            yield
    finally:
        _number = 0


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Raise `Stopped` immediately on a signal within the context. For work that writes all files atomically."""

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
    """Whether the error means that a data-loading worker died. (Exceptions raised in a worker keep their type.)

    PyTorch raises it in its SIGCHLD handler, anywhere in the main thread, as a plain RuntimeError that can only be
    recognised by its text.
    """
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def deferred(number: int) -> Iterator[None]:
    """Defer a signal within the context; its handler runs on exit."""
    handler = signal.getsignal(number)
    if not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    with _handled_by(lambda *call: came.append(call), (number,)):
        yield
    if came:
        handler(*came[-1])
