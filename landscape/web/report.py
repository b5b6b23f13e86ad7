"""`landscape.report`: runs and results as one page."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.core.errors import LandscapeError
from landscape.core.fields import as_path, require
from landscape.core.files import refuse_existing, replacing
from landscape.store.results import Result
from landscape.web.gather import gather, opened
from landscape.web.page import page

if TYPE_CHECKING:
    from landscape.problems.base import Problem
    from landscape.store.checkpoints import Run
else:
    Problem = Run = Any  # their modules import torch, which results alone do not need

__all__ = ["report", "require_free", "written"]


def report(
    *sources: "Result | Run | str | PathLike[str]",
    save: str | PathLike[str],
    title: str | None = None,
    problem: "Problem | str | None" = None,
    overwrite: bool = False,
) -> Path:
    """Write one interactive page about any mixture of runs and results; it needs no network and no other file.

    Lines, barriers, groups, planes, training and tables are linked: what is pointed at lights up everywhere. Of more
    than 2,000 lines, or as many points as 120,000, bands of quantiles are drawn and 200 of the lines.

    Args:
        sources: What `landscape.walk`, `connect`, `plane` or `train` gave, or paths of such. Those of different
            problems have a section each.
        save: The page, a file that ends in .html.
        title: What it is called; None: the problems.
        problem: That of runs whose code is not known, itself or its name.
        overwrite: Whether to replace what is there.

    Returns:
        The path of the page.

    Raises:
        LandscapeError: There is nothing to show, or the file is in the way.
        Unsupported: A file is something else, or of a later version.
        DamagedFile: A file is not as it was written.

    >>> import landscape, tempfile, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1, bias=False), (x, x), "mse")
    >>> one, other = ({"weight": torch.tensor([[w]])} for w in (0.0, 2.0))
    >>> result = landscape.walk(one, other, problem=problem, points=5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     landscape.report(result, save=f"{folder}/line.html").name
    'line.html'
    """
    require(report, locals())
    return written(sources, require_free(save, overwrite=overwrite), title=title, problem=problem)


def written(
    sources: "Sequence[Result | Run | str | PathLike[str]]",
    path: Path,
    *,
    title: str | None,
    problem: "Problem | str | None",
    said: Callable[[str], str] = str,
) -> Path:
    """`report` to a path that is free; `said` puts errors that stand in the page."""
    known = None
    if problem is not None:
        from landscape.problems.registry import chosen

        known = chosen(problem)
    sections, members = gather(opened(sources), known, said)
    name = title or "; ".join(section.title for section in sections)
    text = page(sections, members, name)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def require_free(save: str | PathLike[str], *, overwrite: bool) -> Path:
    """The file of a page; raises `LandscapeError` where that cannot be, or is not meant."""
    path = as_path(save, "save")
    if path.suffix.lower() not in (".html", ".htm"):
        raise LandscapeError(f"{path} is not called like a page: end `save` in .html")
    refuse_existing(path, force=overwrite)
    return path
