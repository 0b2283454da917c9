"""The error that a user can mend, and how any error is said in one line."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the file, option or video, and the remedy.

    Scripts print it to stderr and exit with status 1; it never means a fault of the program.
    """


def one_line(error: BaseException) -> str:
    """What an error says, in one line; an error of the system with the file that it is about."""
    named = isinstance(error, OSError) and error.filename and error.strerror
    text = f"{error.filename}: {error.strerror}" if named else str(error)
    return " ".join(text.split())
