"""What a person did wrong, told apart from what the program did wrong."""


class InputError(Exception):
    """A mistake in what the user gave: a file, a row, a field, an address.

    The message says what was given, what was expected and what to do next. Command lines print it
    without a traceback and exit with code 2; everything else lets it pass.
    """
