"""What tests of reports share: results of every kind that are quick to make, pages read back, and a browser."""

import html.parser
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from landscape.core.provenance import Source
from landscape.store.results import Mark, Result

#: Elements that have no end, and those that end where another begins or what they are in ends.
VOID, ENDLESS = {"meta", "input", "br"}, {"td", "tr", "li", "dt", "dd"}
ENDS = {"td": {"td"}, "tr": {"td", "tr"}, "li": {"li"}, "dt": {"dt", "dd"}, "dd": {"dt", "dd"}}


def hills(lines: int = 6, points: int = 11, *, title: str = "Hills", name: str = "seed {}", **about: Any) -> Result:
    """Lines from one landmark to seeds, each a hill of its own height, every third of which is not solved."""
    alpha = np.linspace(0, 1, points)
    seeds = np.arange(lines)
    solved = seeds % 3 != 2
    end = np.where(solved, 1e-3, 0.3)
    loss = 1e-4 * (1 - alpha) + end[:, None] * alpha + (1.0 + seeds)[:, None] * np.sin(np.pi * alpha) ** 2
    return Result(
        "line",
        {"line": seeds, "alpha": alpha},
        values={"loss": loss, "solved": np.repeat(solved[:, None], points, axis=1).astype(float)},
        columns={
            "done": np.ones(lines, dtype=bool),
            "l1": 20.0 + seeds,
            "l2": 10.0 + seeds,
            "from_member": np.zeros(lines, dtype=np.int64),
            "to_member": 1 + seeds,
        },
        sources=[Source("landmark:top", None, None, "t", "top")]
        + [Source("runs/one/step-00000009.safetensors", 9, int(k), "d", name.format(k)) for k in seeds],
        about={"title": title, "loss_unit": "nats", "from": "top", "command": ["landscape", "walk"], **about},
    )


def pairs(members: int = 5, points: int = 9) -> Result:
    """Lines between each two members of one run, of heights that grow with their numbers."""
    alpha = np.linspace(0, 1, points)
    later, earlier = np.tril_indices(members, -1)
    own = 0.01 * (1 + np.arange(members))
    height = 0.5 + later + 0.1 * earlier
    loss = own[earlier][:, None] * (1 - alpha) + own[later][:, None] * alpha + height[:, None] * np.sin(np.pi * alpha)
    return Result(
        "line",
        {"line": np.arange(len(later)), "alpha": alpha},
        values={"loss": loss},
        columns={
            "done": np.ones(len(later), dtype=bool),
            "l2": np.full(len(later), 3.0),
            "from_member": earlier,
            "to_member": later,
        },
        sources=[Source("runs/one/step-00000009.safetensors", 9, k, "d", f"seed {k}") for k in range(members)],
        about={"title": "Hills", "loss_unit": "nats"},
    )


def valley(columns: int = 12, rows: int = 9) -> Result:
    """A bowl over a plane, with a trajectory of four checkpoints that ends at its bottom."""
    x, y = np.linspace(-2, 2, columns), np.linspace(-1, 1, rows)
    loss = 0.1 + x**2 + y[:, None] ** 2
    marks = [
        Mark(
            f"step {step}",
            Source("runs/one/s.safetensors", step, 3, f"s{step}", "seed 3"),
            k,
            1.5 - k / 2,
            0.5 - k / 6,
            loss=0.5 + k,
            plane_loss=0.4 + k,
            off_plane=0.25 * (3 - k),
        )
        for k, step in enumerate((0, 10, 100, 1000))
    ]
    about = {"title": "Hills", "plane": {"kind": "trajectory", "places": ["runs/one/#3"], "explained": [0.9, 0.05]}}
    done = {"done": np.ones(rows, dtype=bool)}
    return Result("plane", {"y": y, "x": x}, values={"loss": loss}, columns=done, about=about, marks=marks)


class Parsed(html.parser.HTMLParser):
    """The elements of a page, each with its attributes and its own text; every one is closed where it must be."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} says an attribute twice"
        while self.open and self.open[-1]["tag"] in ENDS.get(tag, ()):
            self.open.pop()
        element = {"tag": tag, "text": "", "of": self.open[-1] if self.open else None, **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1]["tag"] in ENDLESS - {tag}:
            self.open.pop()
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, *having: str, **attributes: str) -> list[dict[str, Any]]:
        """Elements of a kind that have these attributes."""
        return [
            each
            for each in self.elements
            if each["tag"] == tag
            and all(key in each for key in having)
            and all(each.get(key) == value for key, value in attributes.items())
        ]


def places(d: str) -> list[np.ndarray]:
    """Strokes of a path of M and l, [point, 2]."""
    strokes: list[list[tuple[int, int]]] = []
    for letter, numbers in re.findall(r"([Ml])([^Ml]*)", d):
        values = list(map(int, re.findall(r"-?\d+", numbers)))
        for x, y in zip(values[::2], values[1::2], strict=True):
            if letter == "M":
                strokes.append([(x, y)])
            else:
                strokes[-1].append((strokes[-1][-1][0] + x, strokes[-1][-1][1] + y))
    return [np.array(stroke) for stroke in strokes]


def browsers() -> Iterator[Any]:
    """A headless Chromium, of which the environment may say that it must be there: LANDSCAPE_BROWSER=required."""

    def lacking(what: str) -> None:
        if os.environ.get("LANDSCAPE_BROWSER") == "required":
            pytest.fail(f"LANDSCAPE_BROWSER says that there is a browser, but {what}")
        pytest.skip(what)

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        lacking("there is no chromium or google-chrome: install Debian's package chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed: the extra browser has it")
    with sync_playwright() as playwright:
        # Its own sandbox needs more rights than a container grants to root.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
