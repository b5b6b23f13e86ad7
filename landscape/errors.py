"""The errors a user meets; each message says what is wrong, where, and what to do."""

__all__ = ["DamagedFile", "LandscapeError", "Mismatch", "Unsupported", "Unverified"]


class LandscapeError(Exception):
    """Something the user can mend. The command line prints the message in one line and exits with 1."""


class DamagedFile(LandscapeError):
    """A file that is there but cannot be read as what it should be. Never treated as an absent file."""


class Mismatch(LandscapeError):
    """Two things that must agree, such as a checkpoint and an architecture, do not."""


class Unsupported(LandscapeError):
    """A combination that has no meaning, or no implementation; the message names the nearest one that has."""


class Unverified(LandscapeError):
    """A landmark that does not solve its problem, or a curve that does not reproduce its own end points."""
