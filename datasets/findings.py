"""The lines of a report by topic: what is there, what is odd, and what would stop a training."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SHOWN = 6  # names in a line


@dataclass
class Findings:
    """Lines in their order; warnings and problems are marked and counted."""

    lines: list[str] = field(default_factory=list)
    warnings: int = 0
    problems: int = 0

    def say(self, topic: str, text: str) -> None:
        """A line under its topic; of the one before where the topic is empty."""
        self.lines.append(f"{topic:12}{text}")

    def warn(self, text: str) -> None:
        """Something for a person to judge."""
        self.warnings += 1
        self.say("  warning", text)

    def problem(self, text: str) -> None:
        """Something that a training stops at."""
        self.problems += 1
        self.say("  PROBLEM", text)

    def verdict(self) -> str:
        """One line: whether a training can run."""
        found = ((self.problems, "problem"), (self.warnings, "warning"))
        counts = ", ".join(counted(number, what) for number, what in found if number)
        return f"training {'cannot' if self.problems else 'can'} run" + (f": {counts}" if counts else "")


def some(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def counted(count: int, what: str) -> str:
    """`1 video`, `2 videos`, `2 classes`."""
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")
