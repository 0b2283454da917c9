"""The error that a user can mend."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the file, option or video, and the remedy.

    Scripts print it to stderr and exit with status 1; it never means a fault of the program.
    """
