"""Numbers in sentences."""

__all__ = ["plural"]


def plural(count: int, noun: str) -> str:
    """How many there are of something: 1 line, 2 lines.

    >>> plural(1, "line"), plural(3, "line")
    ('1 line', '3 lines')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")
