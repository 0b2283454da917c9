"""What a run says and records: console lines, a progress bar on a terminal, one JSON line an event, TensorBoard."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from engine.distributed import is_main


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
