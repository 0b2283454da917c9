"""The lines of the report by topic: what is there, what is odd, and what would stop a training."""

from dataclasses import dataclass, field

from common.text import counted


@dataclass
class Report:
    """Lines in their order; warnings and problems are marked and counted."""

    lines: list[str] = field(default_factory=list)
    warnings: int = 0
    problems: int = 0

    def add(self, topic: str, text: str) -> None:
        """A line under its topic; of the one before where the topic is empty."""
        self.lines.append(f"{topic:12}{text}")

    def warn(self, text: str) -> None:
        """Something for a person to judge."""
        self.warnings += 1
        self.add("  warning", text)

    def problem(self, text: str) -> None:
        """Something that a training stops at."""
        self.problems += 1
        self.add("  PROBLEM", text)

    def verdict(self) -> str:
        """One line: whether a training can run."""
        found = ((self.problems, "problem"), (self.warnings, "warning"))
        counts = ", ".join(counted(number, what) for number, what in found if number)
        return f"training {'cannot' if self.problems else 'can'} run" + (f": {counts}" if counts else "")
