"""Formatting of counts and lists in messages."""

from collections.abc import Iterable

NAMED = 6  # maximum per message


def first_few(names: Iterable[str]) -> str:
    """The first few names, and the number of remaining ones."""
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def counted(count: int, what: str) -> str:
    """`1 video`, `2 videos`, `2 classes`."""
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")
