"""The page: sections, styles and script in one file that loads nothing."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from landscape import __version__
from landscape.core.errors import plural
from landscape.figures.pages import COLORS
from landscape.web.curves import incidence_view, lines_view, traces_view
from landscape.web.data import Members, Section
from landscape.web.markup import Markup, tag
from landscape.web.members import cards_view, ends_view, passes_views
from landscape.web.planes import plane_view
from landscape.web.tables import lines_table, members_table, origins

__all__ = ["document", "page"]


def page(sections: Sequence[Section], members: Members, title: str) -> str:
    """A page in HTML; the same bytes for the same data."""
    style, script = (resources.files("landscape.web").joinpath(f"report.{kind}").read_text() for kind in ("css", "js"))
    colors = "".join(f"--c{number}:{color};" for number, color in enumerate(COLORS))
    style = f":root{{{colors}}}\n{style}"
    several = (
        f" Of {plural(len(sections), 'problem')}, a section each: numbers of different problems are not compared."
        if len(sections) > 1
        else ""
    )
    body = [
        tag(
            "header",
            tag("h1", title),
            tag("button", "Light or dark", type="button", id="theme"),
            tag(
                "p",
                "Point at a line or a member: it lights up everywhere. Click or press Enter to keep it, Escape to "
                f"clear.{several}",
            ),
        ),
        *(_section(each, members, place, title) for place, each in enumerate(sections)),
        tag("footer", f"Made by landscape {__version__}; loads nothing and sends nothing."),
        tag(
            "aside",
            tag("p", "Nothing is pointed at.", id="told", aria_live="polite"),
            tag("ul", id="kept", aria_label="kept"),
            aria_label="what is pointed at",
        ),
    ]
    return document(title, body, style=style, scripts=[script])


def document(title: str, body: Sequence[Markup], *, style: str, scripts: Sequence[str], free: bool = False) -> str:
    """A page in HTML that loads nothing and runs these scripts alone, last; with `free` they may style what they make,
    and make pictures.
    """
    styles, pictures = ("'unsafe-inline'", "data: blob:") if free else (_hash(style), "data:")
    allowed = f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {styles}; img-src {pictures}"
    head = [
        Markup('<meta charset="utf-8">'),
        tag("meta", http_equiv="Content-Security-Policy", content=f"{allowed}; base-uri 'none'; form-action 'none'"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    run = [tag("script", Markup(script)) for script in scripts]
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", *body, *run), lang="en") + "\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(section: Section, members: Members, place: int, title: str) -> Markup:
    """All views of one problem."""
    before = len(members.sources)
    views = [lines_view(each, members) for each in section.lines]
    views += passes_views(section, members)
    views += [cards_view(run) for run in section.runs if run.cards is not None]
    views += [] if section.runs else [ends_view(each) for each in section.lines if each.names]
    planes = [
        section.tried(name, lambda name=name, each=each, k=k: plane_view(name, each, members, 100 * place + k))  # type: ignore[misc]
        for k, (name, each) in enumerate(section.planes)
    ]
    views += [each for each in planes if each is not None]
    views += [traces_view(run) for run in section.runs if run.traces is not None]
    views += [incidence_view(run) for run in section.runs if run.incidence is not None]
    own = sorted(
        {member for each in section.lines for pair in each.ends for member in pair}
        | {member for run in section.runs for member in run.members.values()}
        | set(range(before, len(members.sources)))
    )
    total = max(len(own), *(len(run.sources) for run in section.runs), 0) if section.runs else len(own)
    remarks = (
        [tag("section", tag("h3", "Not shown"), tag("ul", *(tag("li", each) for each in section.remarks)))]
        if section.remarks
        else []
    )
    return tag(
        "main" if place == 0 else "section",
        tag("h2", section.title) if section.title != title else "",
        tag("div", *views, class_="views"),
        lines_table(section, members),
        members_table(own, members, total),
        *remarks,
        origins(section),
        class_="problem",
    )
