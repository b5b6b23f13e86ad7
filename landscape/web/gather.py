"""From runs and results, or their paths, to the sections of a page."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.analysis.barriers import barriers, lowest_order
from landscape.core.errors import LandscapeError, printable, unfinished_in
from landscape.core.files import is_there
from landscape.figures.walks import by_end
from landscape.store.hdf5 import is_sealed
from landscape.store.kinds import refuse_others
from landscape.store.results import Result
from landscape.web.data import MOST, SAMPLE, Lines, Members, Section, few, spread

if TYPE_CHECKING:
    from landscape.problems.base import Problem
    from landscape.store.checkpoints import Run
else:
    Problem = Run = Any  # their modules import torch, which results alone do not need

__all__ = ["gather", "opened"]

_log = logging.getLogger("landscape")

#: What is to be given.
_WANTED = "a run directory, or what landscape walk, plane or connect wrote"

#: Of lines, what is drawn.
_VALUES = ("loss", "solved", "loss_straight", "loss_error", "loss_se")


def opened(given: Sequence[Any]) -> list[tuple[str, Any]]:
    """Results and runs, read where they are given by their paths, each with a name.

    Raises `LandscapeError` if there are none, or one of them is something else.
    """
    if not given:
        raise LandscapeError("a report of nothing: give at least one run or result")
    found: list[tuple[str, Any]] = []
    for number, each in enumerate(given, start=1):
        if isinstance(each, Result):
            found.append((f"result {number}", each))
        elif isinstance(each, str | os.PathLike):
            found.append((os.fspath(each), _read(Path(each))))
        elif type(each).__name__ == "Run" and hasattr(each, "checkpoint"):
            found.append((str(each.path), each))
        else:
            raise LandscapeError(f"a report of {type(each).__name__}: give runs, results or their paths")
    names = [name for name, _ in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise LandscapeError(f"{twice} is given twice: leave one out")
    return found


def _read(path: Path) -> Any:
    """A run or a result at a path."""
    if path.is_dir() and is_there(path / "run.json"):
        from landscape.store.checkpoints import Run

        return Run.open(path)
    if path.is_dir() or (path.is_file() and not is_sealed(path)):
        refuse_others(path, _WANTED)
        if path.is_dir():
            raise LandscapeError(f"{path} is no run, it has no run.json: give {_WANTED}")
    return Result.read(path)


def gather(
    found: Sequence[tuple[str, Any]], problem: Problem | None = None, said: Callable[[str], str] = str
) -> tuple[list[Section], Members]:
    """The sections of a page, in the order in which their problems come, and the members that they name.

    Args:
        found: What `opened` gave.
        problem: That of runs whose code is not known.
        said: How errors are put that become remarks: where a command line makes the page, with its flags.

    Raises `LandscapeError` where there is nothing to show, or a problem that nothing needs.
    """
    sections: dict[str, Section] = {}
    members = Members()
    curves = sum(not isinstance(each, Result) or each.kind != "plane" for _, each in found)
    most, drawn, used = max(SAMPLE, MOST // max(curves, 1)), 0, problem is None
    for name, each in found:
        of: Problem | None = None
        remark = ""
        if not isinstance(each, Result):
            try:
                of = _restored(each)
            except LandscapeError as error:
                of, used, remark = (
                    problem,
                    True,
                    "" if problem else f"{name}, what its members compute: {said(str(error))}",
                )
        title = _title(each, of)
        section = sections.setdefault(title, Section(title, said=said))
        section.files.append((name, each.about if isinstance(each, Result) else each.document))
        section.remarks += [remark] * bool(remark)
        if isinstance(each, Result) and each.unfinished:
            _log.warning("%s", unfinished_in(name, each.unfinished))
        if not isinstance(each, Result):
            from landscape.web.training import trained

            if (run := section.tried(name, partial(trained, section, name, each, members, of, most))) is not None:
                section.runs.append(run)
        elif each.kind == "plane":
            section.planes.append((name, each))
        elif (lines := section.tried(name, partial(_lines, name, each, members, most, drawn))) is not None:
            section.lines.append(lines)
            drawn += len(lines.shown)
    if not used:
        raise LandscapeError("each of these says what problem it is of: leave `problem` out")
    if not any(each.lines or each.planes or each.runs for each in sections.values()):
        raise LandscapeError(f"there is nothing to show: {next(iter(sections.values())).remarks[0]}")
    return list(sections.values()), members


def _title(each: Any, problem: Problem | None) -> str:
    """The problem of a run or result, in words."""
    if isinstance(each, Result):
        return printable(str(each.about.get("title") or each.about.get("problem", {}).get("name", "a problem")))
    name, config = each.problem
    return printable(str(config.get("title") or name) if problem is None else problem.title())


def _restored(run: Run) -> Problem:
    from landscape.problems.registry import restore

    return run.trained_on or restore(*run.problem, run.code, wanted_by=str(run.path))


def _lines(name: str, result: Result, members: Members, most: int, first: int) -> Lines:
    """The lines of a result; raises `LandscapeError` if none is finished."""
    kept = {key: result.values[key] for key in _VALUES if key in result.values}
    curves = dataclasses.replace(result, values=kept)
    curves = curves.select(lowest_order(curves))
    found = barriers(curves)
    if any(curves.moves):
        parts = [part or "all" for part in curves.moves.tolist()]
        names = tuple(dict.fromkeys(parts))
        group = np.array([names.index(part) for part in parts])
    else:
        group, some = by_end(curves)
        names = tuple(some)
    shown = spread(found.above_chord, len(curves) if few(len(curves), len(curves.alpha), most) else SAMPLE)
    begin, end = (
        [members.of(curves.sources[member]) for member in curves[side][shown].tolist()]
        for side in ("from_member", "to_member")
    )
    ends = list(zip(begin, end, strict=True))
    at = {0: curves.inside.start, 1: curves.inside.stop - 1}
    ray = curves.kind == "ray"
    for line, pair in zip(shown.tolist(), ends, strict=True):
        for side, member in enumerate(pair):
            if not (ray and side):
                facts: dict[str, Any] = {"loss": float(curves.loss[line, at[side]])}
                if "solved" in curves.values and not any(curves.moves):
                    facts["outcome"] = "solved" if curves["solved"][line, at[side]] == 1 else "not solved"
                members.tell(member, **facts)
    return Lines(name, curves, found, group, names, shown, first, tuple(ends), result.unfinished)
