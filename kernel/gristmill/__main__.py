"""`python -m gristmill` is the command line."""

from gristmill._cli import main

main()
