"""`python -m perfkit.cli`."""

from perfkit.cli import main

main()
