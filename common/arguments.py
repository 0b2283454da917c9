"""What the command lines of tools and predict.py have in common: a mistake is one line that says the rule."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from common.errors import InputError, one_line
from common.files import writable
from common.signals import Stopped


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, and takes no abbreviated options."""

    def __init__(self, *, prog: str, description: str | None, add_help: bool = True) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=prog, description=description, formatter_class=layout, allow_abbrev=False, add_help=add_help
        )

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]  # argparse's own
        """A dash within an option is an underscore: `--class-names` is `--class_names`."""
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([underscored(str(token)) for token in args], namespace)

    def _get_option_tuples(self, option_string: str) -> list[Any]:  # argparse's own; abbreviates -gpu even so
        return []

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def underscored(token: str) -> str:
    """A word of a command line, with underscores for the dashes in an option's name."""
    name, equals, value = token.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else token


def typed(kind: Callable[[str], Any], rule: str) -> Callable[[str], Any]:
    """An option's type, of which a value that `kind` refuses (ValueError) is refused with the rule."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}") from None

    return convert


FINITE = ("<", float("inf"))
COUNT = typed(PositiveInt, "a whole number of at least 1")
WHOLE = typed(NonNegativeInt, "a whole number of at least 0")
POSITIVE = typed(restricted_number_type("Positive", float, [(">", 0), FINITE]), "a number above 0")
NOT_NEGATIVE = typed(restricted_number_type("NotNegative", float, [(">=", 0), FINITE]), "0 or more")


def check_outputs(paths: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Make their folders and try to write there: an error now rather than after the work.

    Args:
        inputs: files that no output may replace.
    """
    taken = {path.resolve(): "would replace what is read; name another file to write" for path in inputs}
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file to write")
        if path.resolve() in taken:
            raise InputError(f"{path}: {taken[path.resolve()]}")
        taken[path.resolve()] = "two outputs cannot be one file"
        writable(path.parent, "file to write")


def exit_status(tool: str, work: Callable[[], int | None]) -> int:
    """Do a tool's work: what it returns; or, after one line on stderr, 1 for a mistake and 128 + signal for a stop."""
    try:
        return work() or 0
    except (InputError, OSError) as error:
        print(f"{tool}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"{tool}: {stopped}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
