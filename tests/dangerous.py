"""Class for tests that untrusted pickles are not loaded."""

from pathlib import Path


class Dangerous:
    """Object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")
