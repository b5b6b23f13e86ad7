"""Do the first examples matter more than the last? One tenth of the data exchanged for other boards, by which tenth.

From the same initial point each network sees one order of the data, the same with one tenth of it from another order,
and that other order throughout. Measured between the end without and the end with the exchange, seed by seed: how far
apart they lie, as a share of how far exchanging all moves the end; whether both compute the same function; whether a
barrier is between them. D. Erhan et al. (JMLR 2010, figure 10) find that the variance of what is learnt falls with the
place of the examples that vary. Refuted if the first tenth moves the end no further than the later ones.
"""

from typing import Any

import numpy as np

from landscape import Run, Training, barriers, figures, walk
from landscape.core.intervals import Proportion, median_interval
from landscape.problems.life import Life
from study import Study, middle

WIDTHS, SIZES, LOW, SHOWN = (1, 2, 4), (128, 8), 0.01, (1, 2, 3, 4, 6, 8, 10)


def apart(problem: Life, one: Run, other: Run) -> dict[str, Any]:
    """Distance of the ends, whether they compute otherwise, and whether a barrier is between them, of each seed."""
    lines, predict = walk(one, other, problem=problem, points=51), problem.objective().predictions
    differ = (predict(one.checkpoint().stack) != predict(other.checkpoint().stack)).flatten(1).any(1).numpy()
    return {"distance": lines["l2"], "otherwise": differ, "barrier": barriers(lines).above_chord >= LOW}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="40 seeds, 500 steps: half a minute on one core",
        full="100 seeds, 3,000 steps: 5 minutes on one core",
    )
    count, tenth = (40, 50) if study.quick else (100, 300)

    def find(m_factor: int, batch_size: int) -> dict[str, Any]:
        problem, where = Life(m_factor=m_factor), f"m{m_factor}-{batch_size}"

        def go(part: str, tenths: int, start: str | None, order: int) -> Run:
            """So many tenths more of an order of each seed's own."""
            place = str(study.runs / where / start) if start else None
            how = {"data": "batches", "batch_size": batch_size, "save_at": (), "start": place}
            own = [10_000 * order + seed for seed in range(count)]
            training = Training(batches=tenths * tenth, **how)
            return study.train(problem, training, f"{where}/{part}", range(count), data_seeds=own, engine="fused")

        for k in range(1, 11):  # without an exchange
            whole = go(f"to-{k}", 1, f"to-{k - 1}" if k > 1 else None, 0)
        every = apart(problem, whole, go("other", 10, None, 1))
        found: dict[str, Any] = {"all": every}
        for k in range(1, 11):
            end = go(f"tenth-{k}", 1, f"to-{k - 1}" if k > 1 else None, 1)
            end = go(f"end-{k}", 10 - k, f"tenth-{k}", 0) if k < 10 else end
            found[str(k)] = apart(problem, whole, end)
        told = {}
        for name, each in found.items():
            share = each["distance"] / every["distance"]
            told[name] = {
                "distance": middle(each["distance"]),
                "share of all": [float(np.median(share)), *median_interval(share, 1 - 0.05 / 60)],
                "otherwise": Proportion(int(each["otherwise"].sum()), count),
                "barrier": Proportion(int(each["barrier"].sum()), count),
            }
        first = found["1"]["distance"] / found["10"]["distance"]
        return {**told, "first over last": middle(first)}

    cells = study.cells({"m_factor": WIDTHS, "batch_size": SIZES}, find, seeds=count, steps=10 * tenth)
    far, unlike = [], []
    for m in WIDTHS:
        of = {c["cell"]["batch_size"]: c["found"] for c in cells if c["cell"]["m_factor"] == m}
        distances, shares = [], []
        for size, each in of.items():
            name, x = f"batches of {size} boards", np.array(SHOWN, dtype=float)
            value, low, high = np.array([each[str(k)]["share of all"] for k in SHOWN], dtype=float).T
            distances.append(figures.Series(label=name, x=x, value=value, low=low, high=high))
            other = [Proportion(each[str(k)]["otherwise"]["count"], count) for k in SHOWN]
            base = each["all"]["otherwise"]["value"]
            shares.append(figures.Series.of_proportions(name, SHOWN, other, baseline=base))
        far.append((f"m = {m}", distances))
        unlike.append((f"m = {m}", shares))
    about = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {count} seeds a curve, {10 * tenth:,} steps of Adam at 1e-2; one "
        "tenth of the batches is of another order. Distance of the end from that without the exchange"
    )
    look: dict[str, Any] = {"xlabel": "tenth of the data that is exchanged"}
    many = about + ", as a share of what exchanging all of the data makes it; medians, intervals at once with 95 %."
    label = "distance, all exchanged: 1"
    study.draw(figures.series_figure(far, ylabel=label, percent=False, yscale="log", caption=many, **look), "distance")
    text = about.replace("Distance of the end from that", "Whether the end computes another function than that")
    look |= {"ylabel": "another function (%)", "baseline": "all exchanged"}
    study.draw(figures.series_figure(unlike, caption=text + ".", **look), "functions")
    ratios = (f"m = {c['cell']['m_factor']}: {c['found']['first over last'][0]:.2f}" for c in cells)
    study.done("distance by the first over that by the last tenth: " + "; ".join(ratios))


if __name__ == "__main__":
    main()
