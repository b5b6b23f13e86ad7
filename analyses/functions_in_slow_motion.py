"""Does training go down through a valley that curves? One function learnt, checkpoint by checkpoint.

Question: straight lines between successive checkpoints follow training (C. Xing et al., *A Walk with SGD*, arXiv
1802.08770), beside the straight line from the initial point to where training ended (I. Goodfellow, O. Vinyals, A.
Saxe, ICLR 2015). Measure: length of the way over that of the straight line, and the loss of both at each share of their
lowest so far on either, medians over seeds. A ratio of 1 would refute the curve, rises of the way by checkpoints that
are larger than those of the straight line that it is a valley.
"""

import itertools

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from landscape import Result, figures
from landscape.core.intervals import median_interval, together
from landscape.figures.pages import INK, WIDTH, sheet
from landscape.problems.places import run_members
from study import Study

PLACES = np.linspace(0, 1, 201)  # shares of a way's length
SHOWN = 14  # checkpoints whose function is drawn


def along(pieces: list[Result]) -> np.ndarray:
    """Loss of each seed at each share of the length of its own way, which may have several straight pieces."""
    rows = []
    for seed in range(len(pieces[0])):
        before = np.cumsum([0.0, *(piece["l2"][seed] for piece in pieces)])
        place = np.concatenate([start + p.alpha * p["l2"][seed] for start, p in zip(before[:-1], pieces, strict=True)])
        rows.append(np.interp(PLACES, place / before[-1], np.concatenate([piece.loss[seed] for piece in pieces])))
    return np.array(rows)


def draw(ways: list[figures.Series], run: str, shown: dict[int, float], caption: str) -> Figure:
    """The loss on both ways, and what seed 0 answers as it learns: the steps shown, by where they are on its way."""
    colormap = matplotlib.colormaps["viridis_r"]
    with sheet((WIDTH, 3.3), caption, 2, (1, 1.1)) as (figure, (left, right)):
        labels = {"xlabel": "share of the way's length", "ylabel": "loss (squared error)"}
        figures.series(left, ways, percent=False, yscale="log", **labels)
        for step, share in shown.items():
            problem, stack = run_members(f"{run}/@{step}")
            data, says = problem.data(), problem.objective().predictions(stack.select([0]))[0, 0]
            right.plot(data.inputs[:, 0], says, color=colormap(share), lw=1.3)
        right.plot(data.inputs[:, 0], data.targets[:, 0], ls="", marker=".", ms=3.5, color=INK, zorder=1)
        right.set_xlabel("x")
        right.set_ylabel("answer of seed 0")
        figure.colorbar(ScalarMappable(cmap=colormap), ax=right, label="share of the way's length", aspect=30)
    return figure


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 2,000 steps, 47 checkpoints: about half a minute on two cores",
        full="200 seeds, 20,000 steps, 87 checkpoints: 7 minutes on one core",
        cells=False,
    )
    seeds, steps, count = (20, 2000, 53) if study.quick else (200, 20_000, 100)
    saved = [0, *np.unique(np.geomspace(1, steps, count).round().astype(int)).tolist()]
    done = study.sweep(
        "functions",
        grid={"function": ["sine"]},
        options={"width": 32, "depth": 2, "activation": "tanh"},
        seeds=range(seeds),
        training={"batches": steps, "lr": 3e-3, "save_at": tuple(saved)},
    )
    run = str(done.cells()[0].path)
    direct = study.walk(f"{run}/@0", run, "straight", points=201)
    pieces = [study.walk(f"{run}/@{a}", f"{run}/@{b}", f"step-{a}", points=21) for a, b in itertools.pairwise(saved)]
    losses = {"checkpoint by checkpoint": along(pieces), "straight line": along([direct])}
    rises = {way: np.max(loss - np.minimum.accumulate(loss, axis=1), axis=1) for way, loss in losses.items()}
    parts = np.array([piece["l2"] for piece in pieces])
    longer = parts.sum(0) / direct["l2"]
    study.keep({"steps": saved, "largest_rise": rises, "path_length_over_direct": longer})
    travelled = np.cumsum([0.0, *parts[:, 0]]) / parts[:, 0].sum()
    nearest = {int(np.abs(travelled - share).argmin()) for share in np.linspace(0, 1, SHOWN)}
    shown = {saved[k]: float(travelled[k]) for k in sorted(nearest)}
    low, high = median_interval(longer)
    caption = (
        f"sin(2 pi x) at 65 points, MLP with two hidden layers of 32, tanh; {seeds} seeds, {steps:,} steps of Adam at "
        f"3e-3 on the exact loss. Left: straight lines between {len(saved)} successive checkpoints, evenly spaced in "
        "the logarithm of the step, 21 points each, and the one from the first to the last, 201 points. Medians over "
        "seeds; bands: their intervals, all of them with 95 % at once; faint: seeds. The way by the checkpoints is "
        f"{np.median(longer):.2f} times as long (median, 95 % interval {low:.2f} to {high:.2f}; L2). Right: "
        f"{len(shown)} checkpoints of seed 0, coloured by how far on its way they are; dots: what is learnt."
    )
    ways = [
        figures.Series.of_seeds(way, PLACES, loss, statistic="median").covering(together(2 * len(PLACES)))
        for way, loss in losses.items()
    ]
    study.draw(draw(ways, run, shown, caption))
    study.done("; ".join(f"{way}: largest rise {np.median(rise):.2g} (median)" for way, rise in rises.items()))


if __name__ == "__main__":
    main()
