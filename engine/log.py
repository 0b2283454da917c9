"""What a run says and records: console lines, a progress bar on a terminal, one JSON line an event, TensorBoard."""

import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from engine.distributed import is_main

with warnings.catch_warnings():  # pkbar announces its use of pkg_resources at every start
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import pkbar


SIGN_OF_LIFE_SECONDS = 300.0


def progress(items: Iterable, total: int, title: str) -> Iterator:
    """The items, of which there are `total`; meanwhile their progress.

    On a terminal that is a bar with rate and remaining time, elsewhere a line every few minutes; for no items, nothing.
    """
    if total == 0:
        yield from items
        return
    update = (_bar if sys.stdout.isatty() else _lines)(total, title)
    for done, item in enumerate(items, 1):
        yield item
        update(done)


def _bar(total: int, title: str) -> Callable[[int], None]:
    print(title)
    return pkbar.Kbar(target=total).update


def _lines(total: int, title: str) -> Callable[[int], None]:
    last = time.monotonic()

    def update(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > SIGN_OF_LIFE_SECONDS:
            last = time.monotonic()
            print(f"{title}: {done} of {total}", flush=True)

    return update


def say(line: str) -> None:
    """Print a line at once; on a terminal below the bar that may be under way."""
    print(f"\n{line}" if sys.stdout.isatty() else line, flush=True)


class RunLog:
    """The record of one stage: `metrics.jsonl` and `tensorboard/` in its folder.

    Every line has "epoch" (number of epochs done, fractional within one), "step" and "event"; reports read only this.
    A context manager. It continues a record after `step`, 0 for a new one: what an earlier run wrote beyond is dropped.
    Of several processes the main one keeps it, the others' do nothing.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        self.tensorboard = None
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._rewind(step)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        self._excepthook = threading.excepthook
        threading.excepthook = self._show_unless_raised_again
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.tensorboard is not None:
                self.tensorboard.close()
        except OSError as error:
            raise self._unwritable("tensorboard", error) from error
        finally:
            threading.excepthook = self._excepthook

    def _show_unless_raised_again(self, failure: threading.ExceptHookArgs) -> None:
        """What TensorBoard's thread cannot write, the main thread hears of when it writes next."""
        if not issubclass(failure.exc_type, OSError):
            self._excepthook(failure)

    def _unwritable(self, name: str, error: OSError) -> OSError:
        """The error with a file to it, which a full disk and TensorBoard's thread leave out."""
        return OSError(f"{self.path.with_name(name)}: {error.strerror or error}")

    def write(self, event: str, *, epoch: float, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, and its numbers to TensorBoard as `event/name`."""
        if self.tensorboard is None:
            return
        line = {"event": event, "epoch": epoch, "step": step, **values}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise self._unwritable(self.path.name, error) from error
        try:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.tensorboard.add_scalar(f"{event}/{name}", value, step)
            self.tensorboard.flush()
        except OSError as error:
            raise self._unwritable("tensorboard", error) from error

    def _rewind(self, step: int) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text("".join(kept))
            temporary.replace(self.path)
        except OSError as error:
            raise self._unwritable(self.path.name, error) from error
        finally:
            temporary.unlink(missing_ok=True)


def percent(value: float | None) -> str:
    """A fraction as a percentage for the console; undefined values say so."""
    return "undefined" if value is None else f"{100 * value:.2f}%"
