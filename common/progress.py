"""Progress of long work: a bar on a terminal, otherwise occasional lines; and printing that does not break the bar."""

import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator

with warnings.catch_warnings():  # pkbar warns about pkg_resources at every import
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import pkbar

SIGN_OF_LIFE_SECONDS = 30.0  # minimum time between two progress lines


class _Pace:
    """Limits the rate of progress lines without a terminal, over all kinds of work."""

    def __init__(self) -> None:
        self.last = -math.inf
        self.report = ""  # the latest one not yet printed

    def say(self, line: str) -> None:
        """Print the pending report, or else the line, unless another line was printed recently."""
        now = time.monotonic()
        if now - self.last >= SIGN_OF_LIFE_SECONDS:
            print(self.report or line, flush=True)
            self.last, self.report = now, ""


_pace = _Pace()


def progress(items: Iterable, total: int, title: str) -> Iterator:
    """Iterate over the `total` items and show progress.

    On a terminal this is a bar with rate and remaining time, otherwise a line every 30 seconds. No output for 0 items.
    """
    if total == 0:
        yield from items
        return
    on_terminal, begun = sys.stdout.isatty(), time.monotonic()
    if on_terminal:
        print(title)
        bar = pkbar.Kbar(target=total)
    for done, item in enumerate(items, 1):
        yield item
        if on_terminal:
            bar.update(done)
        elif time.monotonic() - begun >= SIGN_OF_LIFE_SECONDS:
            _pace.say(f"{title}: {done} of {total}")


def report(line: str) -> None:
    """Report a step of running work: every line on a terminal, otherwise only the latest one every 30 seconds."""
    if sys.stdout.isatty():
        say(line)
    else:
        _pace.report = line
        _pace.say(line)


def say(line: str) -> None:
    """Print a line immediately; on a terminal, below any active bar."""
    print(f"\n{line}" if sys.stdout.isatty() else line, flush=True)
