"""The documentation as a site: `make docs`."""

from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from docutils.utils.math import latex2mathml

from landscape import __version__

project = "landscape"
author = "the authors of landscape"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
default_role = "literal"  # what docstrings have in backticks is code
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
html_math_renderer = "mathml"  # which browsers draw themselves, without a network
html_extra_path = ["../plots/reference_report.html", "notebooks"]
suppress_warnings = ["myst.xref_missing"]  # of files beside the pages; that they are there is tested
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"landscape {release}"
templates_path = ["_templates"]
_ABOVE = ("brand", "search", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [*(f"sidebar/{part}.html" for part in _ABOVE), "versions.html"]}  # see versions.py


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """What each verb says of itself, a section each."""
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=86)
    context.max_content_width = 86
    yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            inner = command.get_command(context, verb)
            assert inner is not None
            yield from helps(inner, f"{name} {verb}", context)


def formula(translator: Any, node: nodes.Element) -> None:
    """A formula as MathML."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Pages whose text is not all in their files, and formulas."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))

    def read(app: Any, name: str, source: list[str]) -> None:
        source[0] = source[0].replace("](../README.md)", "](index.md)")
        if name == "sources":  # whose tables take the room
            source[0] = f"---\nhide-toc: true\n---\n\n{source[0]}"
        if name == "commands":
            from landscape.cli import main

            source[0] += "\n" + "\n".join(helps(main, "landscape"))

    app.connect("source-read", read)
