"""Did training succeed? Test samples, entirely right or not, beside what a network that learnt nothing gets."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from landscape.core.errors import Unsupported
from landscape.core.intervals import Proportion, mean_interval
from landscape.engine.stack import Stack
from landscape.problems.base import Nouns, Problem
from landscape.training.sweep import Sweep

__all__ = ["Row", "Success", "as_csv", "as_document", "definitions", "from_document", "of_sweep", "success"]


def definitions(nouns: Nouns) -> dict[str, str]:
    """What is counted, for tables and captions, in the problem's words."""
    return {
        "solved": f"share of members that get all test {nouns.drawn} entirely right",
        "sample_rate": f"share of test {nouns.drawn} that are entirely right, mean over members",
        "cell_rate": f"share of the {nouns.outputs} of all test {nouns.drawn} that are right, mean over members",
        "exact": f"share of members that get all {nouns.all} there are right, where these are finite",
    }


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Success:
    """What each member gets right of `samples` test samples, and what constant answers get (`baselines`, by name:
    sample rate and cell rate). `exact` says who is right on everything there is; None where that cannot be enumerated.
    """

    samples: int
    sample_rate: Float[np.ndarray, " member"]
    cell_rate: Float[np.ndarray, " member"]
    baselines: Mapping[str, tuple[float, float]]
    exact: Bool[np.ndarray, " member"] | None

    @property
    def solved(self) -> Bool[np.ndarray, " member"]:
        """Who gets every test sample right."""
        return self.sample_rate == 1

    @property
    def share(self) -> Proportion:
        """Members that get every test sample right."""
        return Proportion(int(self.solved.sum()), len(self.solved))

    @property
    def exact_share(self) -> Proportion | None:
        """Members that are right on everything."""
        return None if self.exact is None else Proportion(int(self.exact.sum()), len(self.exact))


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One cell of a sweep: its place in the grid, and how its members did."""

    values: Mapping[str, Any]
    success: Success


def success(
    problem: Problem,
    stack: Stack,
    *,
    samples: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    **conditions: Any,
) -> Success:
    """Test the members on fresh samples, the same for all, as many as the problem takes unless told; `conditions` are
    the problem's. A member whose parameters are NaN or infinite gets nothing right.

    Raises `Unsupported` for conditions that the problem does not know.
    """
    number = {} if samples is None else {"samples": samples}
    objective = problem.test_objective(**number, seed=seed, device=device, **conditions)
    if not {"right", "accuracy"} <= objective.metrics.keys():
        raise Unsupported(f"{problem.title()} counts no samples as right: success is for problems that do")
    values = {name: value.cpu().numpy() for name, value in objective(stack).items()}
    total = objective.samples
    if objective.hits is not None:  # samples all of whose targets are ignored can be neither right nor wrong
        total = len(objective.answers(stack.select([0])).of_samples()[1])
    whole = problem.objective(device=device)
    finite = stack.flatten().isfinite().all(1).cpu().numpy()
    return Success(
        samples=total,
        sample_rate=np.where(finite, values["right"] / total, 0.0),
        cell_rate=np.where(finite, values["accuracy"], 0.0),
        baselines=problem.baselines(objective),
        exact=None if whole.sampled else finite & (whole(stack)["right"].cpu().numpy() == whole.samples),
    )


def of_sweep(sweep: Sweep, *, device: str | torch.device = "cpu", **test: Any) -> list[Row]:
    """Success of every finished cell of a sweep, in the order of its grid; `test` is what `success` takes."""
    return [
        Row(cell.values, success(cell.problem, cell.stack(), device=device, **test))
        for cell in sweep.cells()
        if cell.finished
    ]


def as_document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON values, members' own rates included."""
    return [
        {
            **row.values,
            "members": len(row.success.solved),
            "samples": row.success.samples,
            "solved": row.success.share,
            "sample_rate": _mean(row.success.sample_rate),
            "cell_rate": _mean(row.success.cell_rate),
            "exact": row.success.exact_share,
            "baselines": {
                name: {"sample_rate": rates[0], "cell_rate": rates[1]} for name, rates in row.success.baselines.items()
            },
        }
        for row in rows
    ]


def from_document(row: Mapping[str, Any]) -> Row:
    """What `as_document` made of a row; of success on all there is only the count is kept, not which members it is."""
    exact, members = row["exact"], row["members"]
    own = Success(
        samples=row["samples"],
        sample_rate=np.array(row["sample_rate"]["of_members"]),
        cell_rate=np.array(row["cell_rate"]["of_members"]),
        baselines={name: (each["sample_rate"], each["cell_rate"]) for name, each in row["baselines"].items()},
        exact=None if exact is None else np.arange(members) < exact["count"],
    )
    told = {"members", "samples", "solved", "sample_rate", "cell_rate", "exact", "baselines"}
    return Row({key: value for key, value in row.items() if key not in told}, own)


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as comma-separated values, a line a cell, each rate with its interval."""
    lines = []
    for document in as_document(rows):
        line: dict[str, Any] = {}
        for key, value in document.items():
            if isinstance(value, Proportion):
                low, high = value.interval
                line |= {f"{key}_count": value.count, key: value.value, f"{key}_low": low, f"{key}_high": high}
            elif key == "baselines":
                line |= {f"{name} {kind}": rate for name, rates in value.items() for kind, rate in rates.items()}
            elif isinstance(value, dict):
                low, high = value["interval"]
                line |= {key: value["mean"], f"{key}_low": low, f"{key}_high": high}
            else:
                line[key] = value
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _mean(rates: Float[np.ndarray, " member"]) -> dict[str, Any]:
    """Mean over members with its 95 % interval, from 8 members on, and each member's own."""
    return {"mean": float(rates.mean()), "interval": mean_interval(rates, within=(0, 1)), "of_members": rates}
