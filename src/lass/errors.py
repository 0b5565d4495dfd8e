"""The one exception for mistakes of the user's."""


class LassError(ValueError):
    """Bad input, told in one sentence: what was expected, what came, what to do.

    The command `lass` prints the sentence without a traceback and exits with status 1; in Python it is a `ValueError`.
    """
