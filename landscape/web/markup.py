"""Markup: elements of HTML and SVG, in which all that is not markup itself is escaped."""

import html
from typing import Any

from landscape.core.errors import printable

__all__ = ["Markup", "number", "tag", "text"]

#: Elements that have no end, those of SVG that close themselves, and those whose end a browser finds.
_VOID, _CLOSED, _ENDLESS = {"meta", "input", "br"}, {"path", "rect", "image"}, {"td", "tr", "li", "dt", "dd"}


class Markup(str):
    """What is put into a page as it stands; any other text is escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A text of anybody's: what would be markup, or steer the direction of writing, is written out.

    >>> text("<b>1 & 2</b>"), text("a\\u202eb")
    ('&lt;b&gt;1 &amp; 2&lt;/b&gt;', 'a\\\\u202eb')
    """
    return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))


def tag(name: str, /, *inside: object, **attributes: Any) -> Markup:
    """An element, whose attributes are left out where they are None or False; `class_` is `class`, `_` else `-`.

    >>> tag("p", "1 < 2", class_="a note", data_m=3, hidden=True)
    '<p class="a note" data-m=3 hidden>1 &lt; 2</p>'
    """
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    said = "".join(
        f" {key}" if value is True else f" {key}={_quoted(text(value))}"
        for key, value in given
        if value is not None and value is not False
    )
    if name in _CLOSED or (name == "circle" and not inside):
        return Markup(f"<{name}{said} />" if said[-1:].isalnum() else f"<{name}{said}/>")
    end = "" if name in _VOID | _ENDLESS else f"</{name}>"
    return Markup(f"<{name}{said}>{''.join(map(text, inside))}{end}")


def _quoted(value: Markup) -> str:
    return value if value.isascii() and value.isalnum() else f'"{value}"'


def number(value: Any, digits: int = 4) -> str:
    """A number in a few digits, a dash for what is none, such as NaN.

    >>> number(0.123456), number(float("nan")), number(3)
    ('0.1235', '–', '3')
    """
    return "–" if value is None or value != value else f"{value:.{digits}g}" if isinstance(value, float) else str(value)
