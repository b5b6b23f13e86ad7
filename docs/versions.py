"""Tells the pages of every version which others there are: `python docs/versions.py SITE`, which `make docs` ends with.

SITE has a folder for each version, called by its number. Each page gets links to itself in the other versions, or to
their first page, in place of what it had between two comments, so that pages which were made long ago learn of newer
versions; SITE/index.html leads to the newest. All of it is HTML: no script, no network, no server.
"""

import os
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version


def versions(site: Path) -> list[str]:
    """The versions that have pages in `site`, the newest first; other folders are left alone."""
    found = {}
    for page in site.glob("*/index.html"):
        try:
            found[page.parent.name] = Version(page.parent.name)
        except InvalidVersion:
            continue
    return sorted(found, key=found.__getitem__, reverse=True)


def links(page: Path, site: Path, names: list[str]) -> str:
    """What a page shows of the versions: its own, whether it is the newest, and links to itself in the others."""
    own, *inside = page.relative_to(site).parts
    items = []
    for name in names:
        there = site.joinpath(name, *inside)
        target = os.path.relpath(there if there.exists() else site / name / "index.html", page.parent)
        items.append(f"<li>{name}</li>" if name == own else f'<li><a href="{Path(target).as_posix()}">{name}</a></li>')
    older = "" if own == names[0] else f"; the newest is {names[0]}"
    return f"<details><summary>Version {own}{older}</summary><ul>{''.join(items)}</ul></details>"


def main(site: Path) -> None:
    """Write the links into all pages below `site`, and its first page."""
    names = versions(site)
    for page in (page for name in names for page in (site / name).rglob("*.html")):
        text = page.read_text()
        before, begin, rest = text.partition("<!--versions-->")
        old, end, after = rest.partition("<!--/versions-->")
        if end and (new := links(page, site, names)) != old:
            page.write_text(f"{before}{begin}{new}{end}{after}")
    newest = f"{names[0]}/index.html"
    items = "\n".join(f'<li><a href="{name}/index.html">landscape {name}</a></li>' for name in names)
    (site / "index.html").write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>landscape</title>\n'
        f'<meta http-equiv="refresh" content="0; url={newest}"></head>\n<body><ul>\n{items}\n</ul></body></html>\n'
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
