"""What long work shows: a bar on a terminal, elsewhere a line now and then; and lines that do not run into the bar."""

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

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
