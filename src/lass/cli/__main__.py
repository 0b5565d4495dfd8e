"""Run the `lass` command as `python -m lass.cli`."""

from lass.cli.main import main

main()
