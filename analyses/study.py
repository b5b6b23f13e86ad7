"""What the recipes in `analyses/` share: their options, where things go, and what is kept of a result, cell by cell."""

import argparse
import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import sys
import textwrap
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from landscape import figures
from landscape.analysis.pruning import Layer, left, prune
from landscape.analysis.success import Row, as_csv, as_document, from_document, success
from landscape.cli.terminal import Progress
from landscape.core import provenance
from landscape.core.errors import LandscapeError
from landscape.core.files import differences, json_text, replacing, write_json
from landscape.core.intervals import Proportion, mean_interval, median_interval
from landscape.engine.data import Batch
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.evaluation.walk import walk
from landscape.figures.pages import WIDTH, sheet
from landscape.problems.base import Problem
from landscape.problems.compute import Engine
from landscape.problems.places import is_landmark
from landscape.problems.registry import create
from landscape.store.checkpoints import Run, load
from landscape.store.results import Result
from landscape.training.optimizers import OPTIMIZERS
from landscape.training.sweep import Sweep, sweep
from landscape.training.train import Training, train

__all__ = [
    "LAYERS",
    "POSTS",
    "Study",
    "adam",
    "along",
    "barrier",
    "curve",
    "descend",
    "in_words",
    "middle",
    "spread",
    "squeezed",
]

#: The training of the study's posts.
POSTS: Mapping[str, Any] = {"data": "batches", "batches": 10_000, "batch_size": 128, "lr": 1e-3}
#: The hidden layers of one step of Life's networks, as `landscape.analysis.pruning` takes them.
LAYERS = (
    (("net.0.0.weight", "net.0.0.bias"), "net.0.2.weight"),
    (("net.0.2.weight", "net.0.2.bias"), "net.0.4.weight"),
)


@dataclasses.dataclass(frozen=True)
class Study:
    """One study's settings and places: `quick` or full, relative to the repository's root.

    Runs lie in `checkpoints/NAME`, results in `analyses/NAME`, the figure in `plots/NAME.png`; those of the quick
    setting end in `-quick`. What is there is kept unless forced.
    """

    name: str
    quick: bool
    force: bool
    device: str
    begun: float
    hours: float | None = None

    @classmethod
    def from_command_line(cls, file: str, about: str, *, quick: str, full: str, cells: bool = True) -> "Study":
        """Parse the command line of the recipe `file`; `quick` and `full` say what these settings are and take, `cells`
        whether it asks for `cells`, which `--hours` can limit. From here on an error that explains itself is one line.
        """
        sys.excepthook = _one_line
        parser = argparse.ArgumentParser(description=about, epilog=f"full setting: {full}")
        parser.add_argument("--quick", action="store_true", help=quick)
        parser.add_argument("--force", action="store_true", help="make everything anew")
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
        if cells:
            parser.add_argument(
                "--hours", type=_hours, help="begin no further cell after that long; go on another time"
            )
        options = parser.parse_args()
        os.chdir(Path(file).resolve().parent.parent)
        hours = options.hours if cells else None
        return cls(Path(file).stem, options.quick, options.force, options.device, time.monotonic(), hours)

    @property
    def label(self) -> str:
        """Name of the study with its setting."""
        return self.name + ("-quick" if self.quick else "")

    @property
    def runs(self) -> Path:
        """Directory of its runs."""
        return Path("checkpoints") / self.label

    @property
    def results(self) -> Path:
        """Directory of its results."""
        return Path("analyses") / self.name

    def result(self, ending: str, part: str = "") -> Path:
        """A file of results, such as `analyses/NAME/quick.json`."""
        setting = "quick" if self.quick else "full"
        return self.results / f"{setting}{f'-{part}' if part else ''}.{ending}"

    def progress(self, what: str, unit: str) -> Progress:
        """Progress on stderr."""
        return Progress(f"{self.label}: {what}", unit)

    def sweep(self, problem: str = "life", part: str = "", **how: Any) -> Sweep:
        """`landscape.training.sweep.sweep` in this study's directory; what is finished is not trained again."""
        path = self.runs / part if part else self.runs
        name = f"train {part}".strip()
        return sweep(
            problem, path, device=self.device, overwrite=self.force, progress=self.progress(name, "batches"), **how
        )

    def train(self, problem: Problem, training: Training, part: str, seeds: Sequence[int], **how: Any) -> Run:
        """`landscape.training.train.train` in this study's directory, unless that is finished; where it is not the CPU
        that computes, compiled loops do not serve.
        """
        if self.device != "cpu" and how.get("engine") == "fused":
            how["engine"] = "auto"
        return train(
            problem,
            training,
            self.runs / part,
            seeds=seeds,
            **how,
            device=self.device,
            overwrite=self.force,
            keep=True,
            progress=self.progress(f"train {part}", "batches"),
        )

    def walk(self, start: str, end: str, part: str, **how: Any) -> Result:
        """`landscape.walk`, unless its curves are there, between the same ends."""
        path = self.result("h5", part)
        ends = {source.digest for place in (start, end) if not is_landmark(place) for source in load(place).sources}
        if not self.force and path.exists():
            curves = Result.read(path, plane=False)
            kept = {"from": start, "to": end} | ({"orders": how["order"]} if "order" in how else {})
            alike = kept.items() <= curves.about.items() and ("align" in curves.about) == how.get("align", False)
            if ends <= {source.digest for source in curves.sources} and alike:
                return curves
        progress = self.progress(f"walk {part}", "lines")
        return walk(start, end, device=self.device, save=path, overwrite=True, progress=progress, **how)

    def cells(
        self,
        grid: Mapping[str, Sequence[Any]],
        find: Callable[..., Mapping[str, Any]],
        part: str = "",
        *,
        partial: bool = False,
        **setting: Any,
    ) -> list[dict[str, Any]]:
        """What `find` says of each cell of a grid, called with its values by name, the last key fastest.

        Answers are written to `result("json", part)` as they come, so that neither an interruption nor a lost directory
        of runs loses more than a cell: what stands there is not asked for again, unless forced; even then the file
        stays as it is until the first new answer. `setting` is what all cells share beside the grid; answers under
        another are refused unless forced. After `--hours` no cell is begun, the file lists what was `not_run`, and the
        study ends there, but with `partial`, for a caller that draws what there is.
        """
        path = self.result("json", part)
        common = json.loads(json_text(setting))
        kept = {} if self.force or not path.exists() else _read(path)
        if kept and (different := differences(kept.get("setting", {}), common)):
            raise LandscapeError(f"{path} was made under another setting: {different}. Keep it elsewhere, or `--force`")
        answers = {json_text(each["cell"]): each for each in kept.get("cells", ())}
        cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        progress = self.progress(f"{part} cells".strip(), "cells")
        for number, cell in enumerate(cells):
            place = json_text(cell)
            if place not in answers and not self._late():
                began = time.monotonic()
                found = dict(find(**cell))
                made = {"device": self.device, "seconds": round(time.monotonic() - began, 1), **provenance.stamp()}
                answers[place] = json.loads(json_text({"cell": cell, "found": found, "made": made}))
            there = [answers[place] for place in map(json_text, cells) if place in answers]
            missing = [each for each in cells if json_text(each) not in answers]
            if there or not self.force:
                write_json(path, {"setting": common, "cells": there, "not_run": missing})
            progress(number + 1, len(cells))
        if missing and not partial:
            self._end(len(there), len(cells))
        return [answers[json_text(cell)] | {"cell": cell} for cell in cells if json_text(cell) in answers]

    def _late(self) -> bool:
        return self.hours is not None and time.monotonic() - self.begun > 3600 * self.hours

    def _end(self, there: int, of: int) -> NoReturn:
        """End the study, whose time is over, without a figure."""
        print(f"{self.label}: {there} of {of} cells are there; drawn once all are: go on another time", file=sys.stderr)
        raise SystemExit(0)

    def not_run(self, *parts: str) -> str:
        """What a caption says of cells, of these parts together, that were not run; nothing if all were. If none was,
        the study ends here.
        """
        kept = [_read(self.result("json", part)) for part in parts or ("",)]
        left, there = (sum(len(each[key]) for each in kept) for key in ("not_run", "cells"))
        if not there:
            self._end(0, left)
        return f" Not run: {left} of {left + there} cells." if left else ""

    def success(
        self,
        grid: Mapping[str, Sequence[Any]],
        part: str = "",
        *,
        seeds: Sequence[int],
        training: Mapping[str, Any],
        problem: str = "life",
        options: Mapping[str, Any] | None = None,
        engine: Engine = "auto",
    ) -> list[Row]:
        """Train and test each cell of a grid of fields, of the problem or of its training; a table as CSV beside it, of
        what there is where time was over.
        """
        own = {field.name for field in dataclasses.fields(Training)}

        def find(**cell: Any) -> Mapping[str, Any]:
            what = create(problem, {**(options or {}), **{key: each for key, each in cell.items() if key not in own}})
            how = Training(**training, **{key: each for key, each in cell.items() if key in own})
            name = ",".join(f"{key}={value}" for key, value in cell.items())
            run = self.train(what, how, f"{part}/{name}".strip("/"), seeds, engine=engine)
            (told,) = as_document([Row(cell, success(what, run.checkpoint().stack, device=self.device))])
            return told

        shared = {"problem": problem, "options": options or {}, "training": training, "seeds": seeds}
        found = self.cells(grid, find, part, partial=True, **shared)
        rows = [Row(each["cell"], from_document(each["found"]).success) for each in found]
        if rows:
            with replacing(self.result("csv", part)) as temporary:
                temporary.write_text(as_csv(rows))
        return rows

    def rows_of(self, name: str, part: str) -> list[Row]:
        """The table of success that another study has made in this setting."""
        path = dataclasses.replace(self, name=name).result("json", part)
        return [from_document(each["found"]) for each in _read(path)["cells"]]

    def keep(self, document: Mapping[str, Any], part: str = "") -> None:
        """Write a result as JSON, with who made it, how, and in what time; what stands there already keeps its own."""
        path = self.result("json", part)
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(path.read_text())
            if json.loads(json_text(document)) == {key: value for key, value in before.items() if key != "made"}:
                return
        how = {
            "study": self.name,
            "setting": "quick" if self.quick else "full",
            "device": self.device,
            "seconds": round(time.monotonic() - self.begun, 1),
            **provenance.stamp(),
        }
        write_json(path, {**document, "made": how})

    def draw(self, figure: Figure, part: str = "") -> None:
        """Save a figure, and tell where."""
        name = f"{self.name}{f'-{part}' if part else ''}{'-quick' if self.quick else ''}"
        for path in figures.save(figure, Path("plots") / f"{name}.png"):
            print(path)

    def draw_table(self, rows: Sequence[Sequence[str]], caption: str, *, columns: Sequence[tuple[float, int]]) -> None:
        """Save a figure of rows of texts, the first one heads, in columns that begin at a share of the width and take
        lines of so many letters.
        """
        wrapped = [
            [
                "\n".join(textwrap.fill(line, n) for line in text.split("\n"))
                for text, (_, n) in zip(row, columns, strict=True)
            ]
            for row in rows
        ]
        heights = [0.6 + max(text.count("\n") + 1 for text in row) for row in wrapped]
        with sheet((WIDTH, 0.15 * sum(heights)), caption) as (figure, (ax,)):
            ax.set_axis_off()
            for number, row in enumerate(wrapped):
                how: dict[str, Any] = {"size": 7.5, "va": "top", "weight": "normal" if number else "bold"}
                for text, (x, _) in zip(row, columns, strict=True):
                    ax.text(x, 1 - sum(heights[:number]) / sum(heights), text, transform=ax.transAxes, **how)
        self.draw(figure)

    @staticmethod
    def told(found: Mapping[str, Any]) -> str:
        """What `cells` keeps of proportions, and of a value with its two ends, if it has any, in words, a line each."""
        lines = []
        for name, each in found.items():
            if isinstance(each, dict):
                low, high = (100 * end for end in each["interval"])
                lines.append(f"{name}: {each['count']} of {each['total']} ({low:.0f} to {high:.0f} %)")
            else:
                value, *ends = each
                shown = f" ({ends[0]:.3g} to {ends[1]:.3g})" if ends and None not in ends else ""
                lines.append(f"{name}: {value:.3g}{shown}")
        return "\n".join(lines)

    def done(self, text: str) -> None:
        """One line of what was found."""
        print(f"{self.label}: {text} ({time.monotonic() - self.begun:.0f} s)", file=sys.stderr)

    @staticmethod
    def original(
        quantity: str, *, x: str = "m_factor", **where: float
    ) -> tuple[Float[np.ndarray, " mark"], Float[np.ndarray, " mark"]] | None:
        """The study's published values of a quantity, read off its plots, over `x` at these other settings."""
        with Path("analyses/study_values.csv").open() as file:
            lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
        marks = [
            (float(line[x]), float(line["value"]))
            for line in lines
            if line["quantity"] == quantity and all(float(line[key]) == value for key, value in where.items())
        ]
        if len({place for place, _ in marks}) < len(marks):
            raise LandscapeError(f"there are several published values of {quantity} at one {x}: fix the other settings")
        return (np.array(marks)[:, 0], np.array(marks)[:, 1]) if marks else None

    def agreement(self, rows: Sequence[Row]) -> str:
        """Keep ours beside each published value, and whether the intervals overlap; returns it in words.

        Theirs is of 20 seeds, so that a share of successes, read off to +-0.02, is one of 21, with Wilson's interval.
        Of rates of boards it is what the reading leaves: how far their seeds lie apart is not published.
        """
        told = []
        for row, quantity in itertools.product(rows, ("success", "board_rate")):
            where = {"steps": row.values["steps"], "m_factor": row.values["m_factor"]}
            where = {key: float(value) for key, value in (where | {"d_factor": row.values.get("d_factor", 1)}).items()}
            marks = self.original(quantity, **where)
            if marks is None:
                continue
            value, rates = float(marks[1][0]), row.success.sample_rate
            if quantity == "success":
                both: tuple[Any, Any] = (row.success.share, Proportion(round(20 * value), 20))
                ends = tuple(each.interval for each in both)
            else:
                ends = (tuple(mean_interval(rates, within=(0, 1))), (value - 0.02, value + 0.02))
                both = tuple({"value": v, "interval": e} for v, e in zip((rates.mean(), value), ends, strict=True))
            apart = ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
            told.append({"quantity": quantity, **where, "ours": both[0], "theirs": both[1], "agrees": not apart})
        self.keep({"cells": told}, "agreement")
        words = []
        for quantity in dict.fromkeys(each["quantity"] for each in told):
            agrees = [each["agrees"] for each in told if each["quantity"] == quantity]
            words.append(f"{sum(agrees)} of {len(agrees)} cells ({quantity})")
        return "agrees with the posts in " + ", ".join(words) if words else "the posts show none of these cells"


def _hours(text: str) -> float:
    """An option's hours."""
    with contextlib.suppress(ValueError):
        if 0 <= (hours := float(text)) < math.inf:
            return hours
    raise argparse.ArgumentTypeError(f"'{text}' is no number of hours: give one such as 2 or 0.5")


def _one_line(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """What Python prints of an error that ends it."""
    if isinstance(error, LandscapeError):
        print(f"Error: {error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        again = "the same command without --force" if "--force" in sys.argv else "the same command"
        print(f"Error: interrupted: repeat {again} to go on", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _read(path: Path) -> dict[str, Any]:
    """What `cells` has kept; raises `LandscapeError` for a file that is damaged."""
    try:
        kept = json.loads(path.read_text())
        if {"setting", "cells", "not_run"} <= kept.keys() and all({"cell", "found"} <= c.keys() for c in kept["cells"]):
            return dict(kept)
    except (ValueError, AttributeError, TypeError):
        pass
    raise LandscapeError(f"{path} is no table of cells, or damaged: restore it, or make it anew with `--force`")


def in_words(training: Mapping[str, Any]) -> str:
    """What a caption says of training on batches of boards."""
    return "{batches:,} batches of {batch_size} boards of 10 x 10, Adam at {lr:g}".format(**training)


def adam(
    start: Float[Tensor, "member parameter"],
    steps: int,
    gradient: Callable[[Tensor], Tensor],
    *,
    lr: float = 1e-2,
    after: Callable[[Tensor], Tensor] = lambda flat: flat,
) -> Float[Tensor, "member parameter"]:
    """Where steps of a fresh Adam lead members, as rows; `after` changes what each step has left."""
    flat, rule, options = start.clone(), OPTIMIZERS["adam"], Training(lr=lr)
    moments = rule.begin(flat)
    for step in range(steps):
        rule.advance(flat, gradient(flat), moments, options, step)
        flat = after(flat)
    return flat


def descend(
    objective: Objective,
    stack: Stack,
    steps: int,
    *,
    lr: float = 1e-2,
    data: Batch | None = None,
    free: Float[Tensor, "member parameter"] | None = None,
    l1: float = 0.0,
) -> Stack:
    """Steps of Adam for all members at once, on the objective's data or on other.

    Parameters where `free` is 0 become and stay 0. An L1 penalty of factor `l1` is its proximal step: after each step
    of Adam, numbers are drawn by lr l1 towards 0, and stay there when they reach it.
    """

    def gradient(flat: Tensor) -> Tensor:
        return objective.gradient(stack.unflatten(flat), data, with_loss=False)[1].flatten()

    def after(flat: Tensor) -> Tensor:
        flat = flat.sign() * (flat.abs() - lr * l1).clamp(min=0) if l1 else flat
        return flat if free is None else flat * free

    return stack.unflatten(adam(stack.flatten(), steps, gradient, lr=lr, after=after))


def squeezed(
    objective: Objective,
    stack: Stack,
    layers: Sequence[Layer],
    steps: int,
    seen: Callable[[Int[Tensor, " member"], Stack], None] = lambda member, stack: None,
) -> Stack:
    """One unit fewer at a time, each followed by so many steps, while the network becomes right again; `seen` is told
    which members did, and the stack, after each.
    """
    going = torch.ones(len(stack), dtype=torch.bool)
    while going.any():
        some = going.nonzero()[:, 0]
        smaller, there = prune(objective, stack.select(some), layers, most=1, right=False)
        free = left(stack.unflatten(torch.ones_like(smaller.flatten())), layers, there).flatten()
        smaller = descend(objective, smaller, steps, free=free)
        right = objective(smaller)["right"] == objective.samples
        flat = stack.flatten()
        flat[some[right]] = smaller.flatten()[right]
        stack, going[some[~right]] = stack.unflatten(flat), False
        seen(some[right], stack)
    return stack


def middle(values: Shaped[np.ndarray, " member"]) -> list[float]:
    """Median over members and both ends of its 95 % interval."""
    return [float(np.median(values)), *median_interval(values)]


def spread(values: Shaped[np.ndarray, " member"]) -> dict[str, float]:
    """Median over members, with its 95 % interval."""
    low, high = median_interval(values)
    return {"median": float(np.median(values)), "low": low, "high": high, "members": len(values)}


def along(objective: Objective, start: Stack, end: Stack, points: int = 51) -> Float[np.ndarray, "point member"]:
    """The loss on the straight line between each two members, at so many points."""
    a, b = start.flatten(), end.flatten()
    places = torch.linspace(0, 1, points)
    return np.stack([objective(start.unflatten((1 - t) * a + t * b))["loss"].numpy() for t in places])


def barrier(objective: Objective, start: Stack, end: Stack, points: int = 51) -> Float[np.ndarray, " member"]:
    """How far the loss rises above the higher end on the straight line between each two members, at so many points."""
    losses = along(objective, start, end, points)
    return np.asarray(losses.max(0) - np.maximum(losses[0], losses[-1]))


def curve(
    label: str, x: Sequence[float], found: Sequence[Mapping[str, Any] | Sequence[float] | None]
) -> figures.Series:
    """Answers of `cells` as a curve, each with its own 95 % interval: a `Proportion`, a `spread`, or a value and both
    ends; a gap where there is none.
    """
    rows = []
    for each in found:
        if isinstance(each, Mapping):
            each = (
                [each["value"], *each["interval"]] if "value" in each else [each[k] for k in ("median", "low", "high")]
            )
        rows.append([np.nan] * 3 if each is None else each)
    value, low, high = np.array(rows, dtype=float).T
    return figures.Series(label=label, x=np.array(x, dtype=float), value=value, low=low, high=high)
