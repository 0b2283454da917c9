"""Report lines by topic: facts, warnings, and problems that would stop training."""

from dataclasses import dataclass, field

from common.text import counted


@dataclass
class Report:
    """Lines in order; warnings and problems are marked and counted."""

    lines: list[str] = field(default_factory=list)
    warnings: int = 0
    problems: int = 0

    def add(self, topic: str, text: str) -> None:
        """Add a line; an empty topic continues the previous one."""
        self.lines.append(f"{topic:12}{text}")

    def warn(self, text: str) -> None:
        """Add a warning for the user to judge."""
        self.warnings += 1
        self.add("  warning", text)

    def problem(self, text: str) -> None:
        """Add a problem that would stop training."""
        self.problems += 1
        self.add("  PROBLEM", text)

    def verdict(self) -> str:
        """Return one line that says whether training can start."""
        found = ((self.problems, "problem"), (self.warnings, "warning"))
        counts = ", ".join(counted(number, what) for number, what in found if number)
        return ("training cannot start" if self.problems else "ready to train") + (f": {counts}" if counts else "")
