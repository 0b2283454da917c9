"""What long work shows: a bar on a terminal, elsewhere a line now and then; and lines that do not run into the bar."""

import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator

with warnings.catch_warnings():  # pkbar announces its use of pkg_resources at every start
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import pkbar

SIGN_OF_LIFE_SECONDS = 30.0  # the least from one line about the progress of work to the next


class _Pace:
    """How often lines come where there is no terminal, whatever work they are about."""

    def __init__(self) -> None:
        self.last = -math.inf
        self.report = ""  # that came too early

    def say(self, line: str) -> None:
        """Print the line, or the report that waits, unless the one before it has just come."""
        now = time.monotonic()
        if now - self.last >= SIGN_OF_LIFE_SECONDS:
            print(self.report or line, flush=True)
            self.last, self.report = now, ""


_pace = _Pace()


def progress(items: Iterable, total: int, title: str) -> Iterator:
    """The items, of which there are `total`; meanwhile their progress.

    On a terminal that is a bar with rate and remaining time, elsewhere a line every 30 seconds; for no items, nothing.
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
    """What work says of itself as it goes on: on a terminal each line, elsewhere the latest one every 30 seconds."""
    if sys.stdout.isatty():
        say(line)
    else:
        _pace.report = line
        _pace.say(line)


def say(line: str) -> None:
    """Print a line at once; on a terminal below the bar that may be under way."""
    print(f"\n{line}" if sys.stdout.isatty() else line, flush=True)
