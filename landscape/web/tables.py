"""Tables of lines and members, which the page sorts and filters and reads; and where files come from."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from landscape.core.errors import plural
from landscape.core.provenance import Source
from landscape.web.data import Lines, Members, Section
from landscape.web.markup import Markup, number, tag

__all__ = ["lines_table", "members_table", "origins"]

#: Rows of a table.
_MOST = 2000
#: What heads do not say by themselves.
_HELP = {
    "above higher end": "The highest loss on the line above the higher of its ends; the loss is highest elsewhere than "
    "at the peak where the ends differ much",
    "peak alpha": "Where the line lies highest above its chord",
    "loss at the peak": "The loss where the line lies highest above its chord: not the highest loss on it",
}


def lines_table(section: Section, members: Members) -> Markup:
    """A row a line that is drawn: its ends, its barrier and how that was obtained, where its peak is."""
    rows = []
    names = members.names()
    header = ["from", "to", "checkpoint", "barrier", "above higher end", "peak alpha", "loss at the peak"]
    header += ["start loss", "end loss", "L2 length"] + ["group"] * any(of.names for of in section.lines)
    for of in section.lines:
        found, curves = of.found, of.result
        first, last = curves.inside.start, curves.inside.stop - 1
        brackets = _interval(of)
        for k, line in enumerate(of.shown.tolist()):
            begin, end = of.ends[k]
            source = members.sources[end]
            name = of.names[of.group[line]] if of.names else ""
            ends = () if brackets is None else (number(float(each[line])) for each in brackets)
            bounds = f" [{', '.join(ends)}]" if brackets is not None else ""
            cells = [
                names[begin],
                names[end],
                _place(source),
                f"{number(float(found.above_chord[line]))}{bounds}",
                number(float(found.above_higher_end[line])),
                number(float(found.peak_alpha[line]), 3),
                number(float(found.peak_loss[line])),
                number(float(curves.loss[line, first])),
                number(float(curves.loss[line, last])),
                number(float(curves["l2"][line])) if "l2" in curves else "–",
                name,
            ]
            rows.append(
                tag(
                    "tr",
                    *(tag("td", cell) for cell in cells[: len(header)]),
                    data_l=of.first + k,
                    data_m=f"{begin} {end}",
                )
            )
    return _table("Lines", header, rows, sum(len(each.result) for each in section.lines))


def _interval(of: Lines) -> Float[np.ndarray, "2 line"] | None:
    """Ends of what the barriers lie within, None where there are only points."""
    if "barrier_low" in of.result:
        return np.stack([of.result["barrier_low"], of.result["barrier_high"]])
    return of.found.bounds.get("above_chord")


def members_table(numbers: Sequence[int], members: Members, total: int) -> Markup:
    """A row a member: where it is, and what is known of it."""
    keys = {"loss": "loss", "outcome": "outcome", "right": "right", "function": "function"}
    names = members.names()
    there = [key for key in keys if any(key in members.facts.get(each, {}) for each in numbers)]
    rows = []
    for each in numbers[:_MOST]:
        facts, source = members.facts.get(each, {}), members.sources[each]
        told = [number(facts.get(key)) for key in there]
        cells = [names[each], _place(source), *told]
        rows.append(tag("tr", *(tag("td", cell) for cell in cells), data_m=each))
    return _table("Members", ["member", "checkpoint", *(keys[key] for key in there)], rows, total)


def _place(source: Source) -> str:
    """A checkpoint in short: the run and the step, or the name of its file."""
    path = Path(source.path)
    return f"{path.parent.name}/@{source.step}" if source.step is not None else path.name


def _table(title: str, header: Sequence[str], rows: Sequence[Markup], total: int) -> Markup:
    if not rows:
        return Markup("")
    what = title.lower()
    heads = (tag("th", tag("button", name, type="button"), scope="col", title=_HELP.get(name)) for name in header)
    field = tag("input", type="search", placeholder="seed 7, or barrier>0.1 solved", aria_label=f"filter {what}")
    some = f"{len(rows):,} of {plural(total, what[:-1])}" if total != len(rows) else plural(total, what[:-1])
    return tag(
        "section",
        tag("h3", title),
        tag("p", tag("label", "Filter ", field), " ", tag("output", some, data_total=len(rows)), class_="filter"),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="sorted", aria_label=title),
            class_="scroll",
            tabindex=0,
        ),
        class_="table",
    )


def origins(section: Section) -> Markup:
    """Where each file comes from: what made it, when, with what, and how its values were obtained."""
    return tag(
        "section",
        tag("h3", "Where this comes from"),
        *(_origin(name, about) for name, about in section.files),
        class_="origins",
    )


def _origin(name: str, about: Mapping[str, Any]) -> Markup:
    told: list[tuple[str, object]] = []
    command = about.get("command")
    if command:
        told.append(("made by", tag("code", shlex.join(map(str, command)))))
    told += [(key, str(about[key])) for key in ("created", "device", "dtype", "threads", "sha256") if about.get(key)]
    if about.get("samples"):
        # The data set of a problem is all that its loss is of, whether or not it counts as a sample of something else.
        of = about.get("problem")
        whole = isinstance(of, Mapping) and of.get("config", {}).get("samples") == about["samples"]
        drawn = about.get("sampled") and not whole
        told.append(("samples", f"{about['samples']:,}, {'drawn' if drawn else 'all there are'}"))
    if about.get("batchnorm"):
        told.append(("BatchNorm", about["batchnorm"].get("policy", "")))
    computation = about.get("computation")
    if isinstance(computation, Mapping):
        told.append(("computed", ", ".join(f"{key} {value}" for key, value in computation.items() if key != "chunk")))
    for key in ("problem", "training"):
        if isinstance(about.get(key), Mapping):
            config = about[key].get("config", about[key])
            told.append((key, ", ".join(f"{name} {value}" for name, value in config.items())))
    if isinstance(about.get("versions"), Mapping):
        told.append(("versions", ", ".join(f"{key} {value}" for key, value in sorted(about["versions"].items()))))
    rows = (each for key, value in told for each in (tag("dt", key), tag("dd", value)))
    return tag("details", tag("summary", name), tag("dl", *rows))
