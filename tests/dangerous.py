"""What a stranger's pickle could hold."""

from pathlib import Path


class Dangerous:
    """Would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")
