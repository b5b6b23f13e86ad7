"""How much of a successful start may be changed? Sign flips of initial weights, after arXiv 2009.01398.

Question: a few flips are said to make a lucky start fail. Measure: networks whose training succeeded, the signs of k of
their initial weights flipped, trained again on the same exact loss: the share that fails, by k and width, its interval
over originals. Refuted where it stays near 0; as robust, if it does not fall with the width.
"""

import math

import numpy as np

from landscape import Stack, figures
from landscape.analysis.success import success
from landscape.engine.stack import concatenate
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study

FLIPS = (0, 1, 2, 3, 4, 6, 8, 12)


def flipped(start: Stack, flips: int, draws: int, rng: np.random.Generator) -> Stack:
    """Copies of one network with the signs of `flips` of its weights turned, each of another choice; biases stay."""
    weights = np.flatnonzero(np.concatenate([np.full(np.prod(s), len(s) > 1) for s in start.shapes.values()]))
    draws = min(draws, math.comb(len(weights), flips))
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < draws:
        chosen.add(tuple(sorted(rng.choice(weights, flips, replace=False).tolist())))
    flat = start.flatten().repeat(draws, 1)
    for row, places in enumerate(sorted(chosen)):
        flat[row, list(places)] *= -1
    return start.unflatten(flat)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="10 originals, 10 draws each, 2,000 steps: about a minute on two cores",
        full="50 originals, 50 draws each, 10,000 steps: about half an hour on one core (estimate)",
        cells=False,
    )
    wanted, draws, batches = (10, 10, 2000) if study.quick else (50, 50, 10_000)
    training = Training(batches=batches, lr=3e-3, save_at=(0, batches))
    curves, found = [], {}
    for m in (1, 2, 4):
        problem = Life(rule="B3/S23", architecture="paper", activation="relu", m_factor=m)
        run = study.train(problem, training, f"originals-m{m}", range(40 * wanted), engine="fused")
        first = success(problem, run.checkpoint().stack, device=study.device)
        solved = np.flatnonzero(first.exact)[:wanted].tolist()
        start = run.checkpoint(0).stack
        rng = np.random.default_rng(m)
        parts = [flipped(start.select([i]), k, draws, rng) for i in solved for k in FLIPS]
        changed = concatenate(parts)
        retrained = study.train(problem, training, f"flipped-m{m}", range(len(changed)), start=changed, engine="fused")
        again = success(problem, retrained.checkpoint().stack, device=study.device).exact
        rates = np.array([each.mean() for each in np.split(again, np.cumsum([len(part) for part in parts])[:-1])])
        rates = rates.reshape(len(solved), len(FLIPS))
        curves.append(figures.Series.of_seeds(f"m = {m}", FLIPS, rates, within=(0.0, 1.0)))
        found[f"m = {m}"] = {"first_training": first.exact_share, "originals": len(solved), "still_solved": rates}
    caption = (
        f"Life B3/S23 (Conway's), one step, the architecture of arXiv 2009.01398 with ReLU. {wanted} networks of each "
        f"width that training solved, {draws} different choices of k weights each, retrained alike: {batches:,} steps "
        "of Adam at 3e-3 on the exact loss. Success: right on all 512 patterns. Faint: originals; bands: of "
        "their mean."
    )
    labels = {"xlabel": "flipped signs k", "ylabel": "still successful (%)"}
    study.draw(figures.series_figure([("", curves)], caption=caption, height=3.2, **labels))
    study.keep({"flips": FLIPS, "draws": draws, "widths": found})
    study.done(
        "; ".join(
            f"{name}: {100 * each['still_solved'][:, 1].mean():.0f} % after one flip" for name, each in found.items()
        )
    )


if __name__ == "__main__":
    main()
