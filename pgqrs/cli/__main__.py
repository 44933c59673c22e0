"""``python -m pgqrs.cli``: the command line."""

from pgqrs.cli import main

main()
