"""Command-line parsing shared by the scripts and tools. A mistake is reported in one line that states the rule."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from common.errors import InputError, one_line
from common.files import writable
from common.signals import Stopped

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one line and does not accept abbreviated options."""

    def __init__(self, *, prog: str, description: str | None, add_help: bool = True) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=prog, description=description, formatter_class=layout, allow_abbrev=False, add_help=add_help
        )

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]  # argparse's own
        """Treat dashes within option names as underscores: `--class-names` is `--class_names`."""
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([underscored(str(token)) for token in args], namespace)

    def _get_option_tuples(self, option_string: str) -> list[Any]:  # overrides argparse, which still abbreviates -gpu
        return []

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def underscored(token: str) -> str:
    """Replace the dashes in an option name by underscores; other arguments are unchanged."""
    name, equals, value = token.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else token


def typed(kind: Callable[[str], T], rule: str) -> Callable[[str], T]:
    """An argparse type that converts with `kind`; if `kind` raises ValueError, the error states `rule`."""

    def convert(text: str) -> T:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}") from None

    return convert


FINITE = ("<", float("inf"))
COUNT = typed(PositiveInt, "a whole number of at least 1")
WHOLE = typed(NonNegativeInt, "a whole number of at least 0")
POSITIVE = typed(restricted_number_type("Positive", float, [(">", 0), FINITE]), "a number greater than 0")
NOT_NEGATIVE = typed(restricted_number_type("NotNegative", float, [(">=", 0), FINITE]), "a number of at least 0")


def check_outputs(paths: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Create the folders of the outputs and check that they are writable, so that errors appear before the work.

    Args:
        inputs: files that no output may overwrite.
    """
    taken = {path.resolve(): "would overwrite an input; choose another output file" for path in inputs}
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a file name")
        if path.resolve() in taken:
            raise InputError(f"{path}: {taken[path.resolve()]}")
        taken[path.resolve()] = "used for two outputs; choose different files"
        writable(path.parent, "file to write")


def exit_status(tool: str, work: Callable[[], int | None]) -> int:
    """Run `work` and return its status. Errors are printed in one line on stderr: 1, or 128 + signal if stopped."""
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
