"""The command line: parses, calls the library, prints. Results go to stdout, progress and remarks to stderr."""

from landscape.cli.commands import main

__all__ = ["main"]
