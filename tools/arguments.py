"""What the command lines of tools and predict.py have in common: a mistake is one line that says the rule."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse.typing import NonNegativeInt, PositiveInt


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, and takes no abbreviated options."""

    def __init__(self, *, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def typed(kind: Callable[[str], Any], rule: str) -> Callable[[str], Any]:
    """An option's type, of which a value that `kind` refuses (ValueError) is refused with the rule."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}") from None

    return convert


COUNT = typed(PositiveInt, "a whole number of at least 1")
WHOLE = typed(NonNegativeInt, "a whole number of at least 0")
