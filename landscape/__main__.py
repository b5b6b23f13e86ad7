"""`python -m landscape` is the program `landscape`."""

from landscape.cli import main

main()
