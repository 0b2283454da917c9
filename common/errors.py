"""The one error that a user can mend, and any error in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self


class InputError(ValueError):
    """A mistake in what the user gave: scripts print it as one line on stderr, without a traceback.

    Attributes:
        what: What is wrong, naming the file, option or video.
        option: The option that it concerns, as the running command spells it; None where there is none.
        remedy: What to do about it; "{option}" in it stands for the option.
    """

    def __init__(self, what: str, *, option: str | None = None, remedy: str | None = None) -> None:
        self.what, self.option, self.remedy = what, option, remedy
        super().__init__(what)

    def __str__(self) -> str:
        if self.remedy is None:
            return self.what
        return f"{self.what}; {self.remedy.replace('{option}', self.option or '')}"

    def called(self, option: str | None) -> Self:
        """The same error in a command that spells the option differently; without a remedy where it has no such one."""
        return type(self)(self.what, option=option, remedy=self.remedy if option else None)


@contextmanager
def options_called(names: Mapping[str, str | None]) -> Iterator[None]:
    """Errors from within the context name the options {as raised: as this command spells it, None: it has none}."""
    try:
        yield
    except InputError as error:
        if error.option is None or error.option not in names:
            raise
        raise error.called(names[error.option]) from None


def one_line(error: BaseException) -> str:
    """What an error says, in one line; an error of the system with the file that it is about."""
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())
