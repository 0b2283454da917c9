"""The error type for user mistakes, and one-line error messages."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self


class InputError(ValueError):
    """Invalid user input. Scripts print it as one line on stderr, without a traceback.

    Attributes:
        what: The problem, including the file, option or video.
        option: The affected option as spelled in the running command, or None.
        remedy: How to fix it; "{option}" is replaced by the option.
    """

    def __init__(self, what: str, *, option: str | None = None, remedy: str | None = None) -> None:
        self.what, self.option, self.remedy = what, option, remedy
        super().__init__(what)

    def __str__(self) -> str:
        if self.remedy is None:
            return self.what
        return f"{self.what}; {self.remedy.replace('{option}', self.option or '')}"

    def called(self, option: str | None) -> Self:
        """The same error for a command that spells the option differently; None: no such option, hence no remedy."""
        return type(self)(self.what, option=option, remedy=self.remedy if option else None)


@contextmanager
def options_called(names: Mapping[str, str | None]) -> Iterator[None]:
    """Rename options in errors raised within the context: {option: this command's spelling, or None if it has none}."""
    try:
        yield
    except InputError as error:
        if error.option is None or error.option not in names:
            raise
        raise error.called(names[error.option]) from None


def one_line(error: BaseException) -> str:
    """The error message in one line; for an OSError, with the file name."""
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())
