"""`python -m landscape` is the program `landscape`."""

import os
import sys

# Python puts the working directory first, where a `fractions.py` of the user's would take the place of Python's own.
if sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from landscape.cli import main

main()
