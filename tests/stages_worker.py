"""Run several stages one after another in one process; a script, so that Lightning can start it again per device."""

import json
import sys

from lass.cli.main import main

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        main(arguments)
