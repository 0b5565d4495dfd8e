"""`python -m lass.cli` is the command `lass`."""

from lass.cli.main import main

main()
