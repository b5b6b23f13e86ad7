"""How often do the intervals that are printed hold the truth? Each statistic at the numbers it is printed for.

Samples are drawn from populations whose truth is known (in closed form, or from a sample so large that its error does
not count), intervals are made as the package makes them, and the table says how often they held it, beside how much
wider they were (median) than the 95 % of the estimates themselves, which is the ideal. Intervals are to hold the truth
in 93 % and be at most 1.5 times as wide; `!` marks what is not so, and the exit status is 1 then. Below the smallest n
the package prints no interval. Some 15 minutes on one core; `--smoke` shows in seconds that it runs.
"""

import argparse
import dataclasses
import functools
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from accuracy import convolutional, digits, perceptron, trained
from scipy.stats import binom
from torch import nn

import landscape
from landscape import Problem
from landscape.analysis.crossed import crossed_shares
from landscape.analysis.density import density
from landscape.analysis.trace import trace
from landscape.core.intervals import Proportion, mean_interval, median_interval, pairs_interval, together, unseen_mass
from landscape.engine.stack import Stack
from landscape.evaluation import samples as reading
from landscape.problems.life import Life

LEAST, WIDEST = 0.93, 1.5

Generator = np.random.Generator
Interval = Callable[[np.ndarray], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of a statistic of `n` values from a population: the share of intervals that held the truth, of so
    many `trials` (0: computed, not drawn), and their median width over the ideal; None where there is no one ideal.
    """

    statistic: str
    population: str
    n: str
    coverage: float
    width: float | None
    trials: int

    @property
    def good(self) -> bool:
        """Whether that is good enough; coverage may lie three standard errors of the simulation lower."""
        error = 3 * (LEAST * (1 - LEAST) / self.trials) ** 0.5 if self.trials else 0.0
        return self.coverage >= LEAST - error and (self.width is None or self.width <= WIDEST)

    def __str__(self) -> str:
        width = "     " if self.width is None else f"{self.width:5.2f}"
        mark = "" if self.good else "  !"
        return f"{self.statistic:<34} {self.population:<38} {self.n:>7}  {100 * self.coverage:5.1f} %  {width}{mark}"


def drawn(
    statistic: str,
    population: str,
    n: int,
    trials: int,
    draw: Callable[[Generator], np.ndarray],
    estimate: Callable[[np.ndarray], float],
    interval: Interval,
    truth: float,
) -> Row:
    """Simulate one row."""
    rng = np.random.default_rng(n)
    samples = [draw(rng) for _ in range(trials)]
    estimates = np.sort([estimate(sample) for sample in samples])
    low, high = np.array([interval(sample) for sample in samples], dtype=float).T
    held = float(((low <= truth) & (truth <= high)).mean())
    # Where the density jumps at the truth no width is ideal: an estimate lies on one side or on the other.
    ends = estimates[[int(0.025 * (trials - 1)), int(np.ceil(0.975 * (trials - 1)))]]
    ideal = ends[1] - ends[0]
    known = np.isfinite(ideal) and ideal > 0 and "plateau" not in population
    return Row(statistic, population, f"{n}", held, float(np.median(high - low) / ideal) if known else None, trials)


# Populations of lines and seeds ---------------------------------------------------------------------------------------


def plateau(rng: Generator, n: int) -> np.ndarray:
    """Losses of which three quarters lie on one plateau, the rest decades below."""
    return np.where(rng.random(n) < 0.75, 0.35 + 1e-3 * rng.random(n), 10 ** rng.uniform(-5, -1, n))


def overflowing(rng: Generator, n: int) -> np.ndarray:
    """Barriers of which a fifth are infinite."""
    return np.where(rng.random(n) < 0.2, np.inf, rng.lognormal(size=n))


def rates(rng: Generator, n: int) -> np.ndarray:
    """Rates of seeds of which most succeed and the rest fail in all ways."""
    return np.where(rng.random(n) < 0.6, 1 - 0.1 * rng.random(n) ** 2, 0.5 * rng.random(n))


LINES: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: rng.lognormal(size=n),
    "losses, 3/4 on a plateau": plateau,
    "log-normal, 1/5 infinite": overflowing,
}
RATES: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "rates, most near 1": rates,
    "rates, beta(1/2, 1/2)": lambda rng, n: rng.beta(0.5, 0.5, n),
    "rates, beta(8, 0.8)": lambda rng, n: rng.beta(8, 0.8, n),
}


# Populations of pairs of nodes ----------------------------------------------------------------------------------------


def symmetric(rng: Generator, n: int) -> np.ndarray:
    noise = np.triu(rng.normal(size=(n, n)), 1)
    return noise + noise.T


def effects(rng: Generator, n: int) -> np.ndarray:
    own = rng.normal(size=n)
    return own[:, None] + own + symmetric(rng, n)


def distances(rng: Generator, n: int) -> np.ndarray:
    place = rng.normal(size=(n, 3))
    return np.asarray(np.linalg.norm(place[:, None] - place, axis=-1))


def valleys(rng: Generator, n: int) -> np.ndarray:
    """Barriers within and between four valleys, the largest with half of the nodes."""
    of = rng.choice(4, size=n, p=[0.5, 0.25, 0.15, 0.1])
    return np.exp(0.5 * symmetric(rng, n)) * np.where(of[:, None] == of, 0.2, 1.0)


def joined(rng: Generator, n: int) -> np.ndarray:
    """Whether pairs are joined: 1 or 0."""
    return (effects(rng, n) > -0.5).astype(float)


PAIRS = {"effects of both": effects, "distances": distances, "barriers of 4 valleys": valleys, "joined or not": joined}


def off_diagonal(pairs: np.ndarray) -> np.ndarray:
    return pairs[~np.eye(len(pairs), dtype=bool)]


# Tables ---------------------------------------------------------------------------------------------------------------


def of_proportions(counts: Sequence[int], chances: np.ndarray) -> Iterator[Row]:
    """Exactly, over all counts: the mean over true shares from 2 to 98 %, and the share that is held least often."""
    for n in counts:
        low, high = np.array([Proportion(k, n).interval for k in range(n + 1)]).T
        held, width = [], []
        for p in chances:
            mass = binom.pmf(np.arange(n + 1), n, p)
            held.append(float(mass @ ((low <= p) & (p <= high))))
            width.append(float(mass @ (high - low)) / (2 * 1.96 * (p * (1 - p) / n) ** 0.5))
        yield Row(
            "proportion (Wilson)",
            "true shares of 2 to 98 %, mean",
            f"{n}",
            float(np.mean(held)),
            float(np.median(width)),
            0,
        )
        worst = int(np.argmin(held))
        print(f"  (n = {n}: least at {100 * chances[worst]:.0f} %, {100 * held[worst]:.1f} %)", file=sys.stderr)


def of_lines(
    of: Literal["median", "mean"], populations: dict[str, Any], counts: Sequence[int], trials: int, truths: int
) -> Iterator[Row]:
    for name, draw in populations.items():
        truth = float((np.median if of == "median" else np.mean)(draw(np.random.default_rng(1), truths)))
        interval: Interval = median_interval if of == "median" else functools.partial(mean_interval, within=(0, 1))
        for n in counts:
            statistic = f"{of} over {'lines or seeds' if of == 'median' else 'seeds'}"
            estimate: Any = np.median if of == "median" else np.mean
            yield drawn(statistic, name, n, trials, lambda rng, d=draw, n=n: d(rng, n), estimate, interval, truth)


def of_pairs(counts: Sequence[int], trials: int, truths: int) -> Iterator[Row]:
    statistics: dict[Literal["mean", "median"], Any] = {"mean": np.mean, "median": np.median}
    for of, statistic in statistics.items():
        for name, draw in PAIRS.items():
            if of == "median" and name == "joined or not":
                continue
            many = [statistic(off_diagonal(draw(np.random.default_rng(1000 + k), truths))) for k in range(8)]
            for n in counts:
                yield drawn(
                    f"{of} over pairs of seeds",
                    name,
                    n,
                    trials,
                    lambda rng, d=draw, n=n: d(rng, n),
                    lambda pairs, s=statistic: float(s(off_diagonal(pairs))),
                    functools.partial(pairs_interval, of=of),
                    float(np.mean(many)),
                )


def _turned(rng: Generator, power: float, parameters: int) -> torch.Tensor:
    """Inputs of 500 samples whose mean square has these eigenvalues, and eigenvectors along no axis: of a diagonal
    matrix a probe of signs has no error.
    """
    left, right = (np.linalg.qr(rng.normal(size=(size, parameters)))[0] for size in (500, parameters))
    return torch.from_numpy(left * np.arange(1, parameters + 1) ** (-power / 2) @ right * 500**0.5)


def of_traces(seeds: int) -> Iterator[Row]:
    """Of a Hessian that is known: that of a linear regression, 2 X'X / N, whose eigenvalues fall as a power."""
    rng = np.random.default_rng(0)
    for power, parameters in ((1.0, 120), (2.0, 120), (0.5, 400)):
        inputs = _turned(rng, power, parameters).float()
        problem = Problem.from_model(nn.Linear(parameters, 1, bias=False), (inputs, torch.zeros(500, 1)), "mse")
        objective, stack = problem.objective(dtype=torch.float64), Stack({"weight": torch.zeros(1, 1, parameters)})
        truth = 2 * float((inputs.double() ** 2).sum()) / 500
        found = [trace(objective, stack, seed=seed, whole=0) for seed in range(seeds)]
        low, high, values = (
            np.array([float(getattr(each, name)[0]) for each in found]) for name in ("low", "high", "values")
        )
        held = float(((low <= truth) & (truth <= high)).mean())
        width = float(np.median(high - low) / np.ptp(np.quantile(values, [0.025, 0.975])))
        yield Row("trace of a Hessian (Hutch++)", f"eigenvalues k^-{power:g}", f"{parameters}", held, width, seeds)


def of_unseen(counts: Sequence[int], trials: int) -> Iterator[Row]:
    """The probability of a kind that was not seen yet, itself random: kinds that are as frequent as functions are."""
    populations = {
        "one of 3/4, one of 1/5, 40 rare kinds": np.array([0.75, 0.19, 0.02, *[0.001] * 40]),
        "geometric, 0.7": 0.7 ** np.arange(60),
        "k^-1.3, 400 kinds": np.arange(1.0, 401) ** -1.3,
        "six equal kinds": np.ones(6),
        "100 equal kinds": np.ones(100),
    }
    for name, weights in populations.items():
        shares, rng = weights / weights.sum(), np.random.default_rng(0)
        for n in counts:
            held = 0
            for _ in range(trials):
                drawn = rng.multinomial(n, shares)
                low, high = unseen_mass(drawn)[1:]
                held += low - 1e-12 <= shares[drawn == 0].sum() <= high + 1e-12
            yield Row("unseen mass (Good-Turing)", name, f"{n}", held / trials, None, trials)


def of_densities(seeds: int) -> Iterator[Row]:
    """The band of a spectral density, on average over its points, of Hessians whose eigenvalues fall as a power."""
    rng = np.random.default_rng(0)
    for power, parameters in ((0.5, 120), (1.0, 300)):
        inputs = _turned(rng, power, parameters)
        problem = Problem.from_model(nn.Linear(parameters, 1, bias=False), (inputs.float(), torch.zeros(500, 1)), "mse")
        objective, stack = problem.objective(dtype=torch.float64), Stack({"weight": torch.zeros(1, 1, parameters)})
        eigenvalues = np.linalg.eigvalsh(2 * (inputs.T @ inputs).numpy() / 500)
        width = np.ptp(eigenvalues) / 40  # more than 80 Lanczos steps leave unresolved
        held = []
        for seed in range(seeds):
            found = density(objective, stack, seed=seed, whole=0, width=width)
            away = (found.grid[:, None] - eigenvalues) / width
            truth = np.exp(-0.5 * away**2).mean(1) / (width * (2 * np.pi) ** 0.5)
            there = truth > 0.1 / (parameters * width * (2 * np.pi) ** 0.5)  # what a figure shows
            held.append(((found.low[0] <= truth) & (truth <= found.high[0]))[there].mean())
        population = f"eigenvalues k^-{power:g}, {parameters} of them"
        yield Row("spectral density (its band)", population, "10", float(np.mean(held)), None, seeds)


def of_shares(trials: int) -> Iterator[Row]:
    for shape in ((40, 5), (200, 20)):
        for effect in ("normal", "two-valued"):
            rng, truth = np.random.default_rng(0), np.array([0.6, 0.1, 0.3])
            held = np.zeros(3)
            for _ in range(trials):
                rows = rng.normal(size=(shape[0], 1)) if effect == "normal" else rng.choice([-1.0, 1.0], (shape[0], 1))
                parts = rows, rng.normal(size=shape[1]), rng.normal(size=shape)
                table = sum(share**0.5 * part for share, part in zip(truth, parts, strict=True))
                found = dataclasses.astuple(crossed_shares(np.asarray(table)))
                held += [low <= p <= high for p, (_, low, high) in zip(truth, found, strict=True)]
            for name, count in zip(("rows", "columns", "rest"), held, strict=True):
                n = "{} x {}".format(*shape)
                yield Row(f"share of variance: {name}", f"{effect} effects of rows", n, count / trials, None, trials)


def of_figures(trials: int, truths: int) -> Iterator[Row]:
    """Several intervals that are to hold at once, as in one figure: how often all of them do."""
    cases: list[tuple[str, str, int, int, Callable[[Generator], np.ndarray], Any, float]] = []
    for name, n, count in (("rates, most near 1", 24, 24), ("rates, beta(8, 0.8)", 28, 54)):
        d = RATES[name]
        truth = float(d(np.random.default_rng(1), truths).mean())
        cases.append(("means", name, n, count, lambda rng, d=d, n=n: d(rng, n), mean_interval, truth))
    for n, count in ((12, 6), (24, 12)):
        cases.append(("medians", "log-normal", n, count, lambda rng, n=n: rng.lognormal(size=n), median_interval, 1.0))
    cases.append(
        (
            "means over pairs",
            "effects of both",
            24,
            12,
            lambda rng: effects(rng, 24),
            functools.partial(pairs_interval, of="mean"),
            0.0,
        )
    )
    cases.append(("medians over pairs", "effects of both", 24, 12, lambda rng: effects(rng, 24), pairs_interval, 0.0))
    for n, count in ((20, 54), (64, 24)):
        cases.append(
            ("proportions", "share of 0.3", n, count, lambda rng, n=n: rng.random(n) < 0.3,
             lambda hits, confidence: Proportion(int(hits.sum()), len(hits)).interval_at(confidence), 0.3)
        )  # fmt: skip
    for what, name, n, count, draw, interval, truth in cases:
        rng, hits = np.random.default_rng(n), 0
        for _ in range(trials):
            ends = np.array([interval(draw(rng), confidence=together(count)) for _ in range(count)])
            hits += bool(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).all())
        yield Row(f"{count} {what} at once", name, f"{n}", hits / trials, None, trials)


# Lines to a tolerance -------------------------------------------------------------------------------------------------


class Attending(nn.Module):
    """A transformer of one block that reads the eight rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.place = nn.Linear(8, 16), nn.Parameter(0.1 * torch.randn(8, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.leave = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the ten digits."""
        found: torch.Tensor = self.leave(self.block(self.enter(images[:, 0]) + self.place).mean(1))
        return found


State = dict[str, torch.Tensor]


def mixed(a: State, b: State, alpha: float) -> State:
    return {name: (1 - alpha) * a[name] + alpha * b[name] for name in a}


def of_kinds(a: State, b: State, c: State) -> dict[str, tuple[State, State, list[State]]]:
    """Lines of each kind from three networks: begin, end, and what lies between."""
    near = [mixed(a, b, alpha) for alpha in (0.45, 0.55)]
    return {
        "one peak": (a, b, []),
        "two near-equal peaks": (a, mixed(a, c, 0.05), [b]),
        "flat top": (a, b, near),
        "no barrier": (mixed(a, b, -0.1), mixed(a, b, 0.1), []),
        "monotone": (a, near[0], []),
    }


def of_barriers(smoke: bool) -> Iterator[Row]:
    """Barriers to 5 % on lines of each kind, whose samples are taken in many orders, against 101 points on all samples;
    of Life's boards, which are drawn, on sixteen times as many.
    """
    triples, orders, points = (1, 2, 21) if smoke else (4, 20, 101)
    images, steps = digits(), 5 if smoke else 60
    made: dict[str, tuple[Problem, list[State], dict[str, Any], dict[str, Any]]] = {}
    networks: dict[str, Callable[[], nn.Module]] = {
        "digits, MLP 64-32-32-10": functools.partial(perceptron, 32),
        "digits, CNN of 4 and 8": functools.partial(convolutional, 4),
        "digits, transformer": Attending,
    }
    for name, make in networks.items():
        few = [dict(trained(make, images, steps, seed).state_dict()) for seed in range(triples + 2)]
        made[name] = Problem.from_model(make(), images, "cross_entropy"), few, {}, {}
    life = Life(steps=2, m_factor=4, board="6x6")
    with tempfile.TemporaryDirectory() as folder:
        training = {"batches": 10 if smoke else 300, "lr": 0.02}
        stack = landscape.train(life, training, f"{folder}/life", seeds=range(triples + 2)).checkpoint().stack
    few = [stack.state_dict(member) for member in range(triples + 2)]
    samples = 512 if smoke else 1024
    whole = {"samples": 16 * samples, "seed": 10**6, "points": min(points, 51)}
    made["Life, two steps, boards of 6 x 6"] = life, few, {"samples": samples}, whole
    at_once, reading._CHEAP = reading._CHEAP, 0  # as if the networks were so large that fewer samples took less time
    for name, (problem, few, options, full) in made.items():
        for kind in of_kinds(few[0], few[1], few[2]):
            held, widths = 0, list[float]()
            for k in range(triples):
                a, b, via = of_kinds(*few[k : k + 3])[kind]
                exact = landscape.walk(a, b, via=via, problem=problem, **{"points": points, **full})
                loss, alpha = exact["loss"][0], exact.alpha
                truth = float((loss - (1 - alpha) * loss[0] - alpha * loss[-1]).max())
                found = [
                    landscape.walk(a, b, via=via, problem=problem, tolerance=0.05, seed=seed, **options).columns
                    for seed in range(orders)
                ]
                low, high, best = (
                    np.array([float(each[of][0]) for each in found])
                    for of in ("barrier_low", "barrier_high", "barrier")
                )
                held += int(((low <= truth * 1.0005 + 1e-9) & (truth * 0.9995 <= high)).sum())
                if kind != "no barrier" and best.std() > 0:
                    widths.append(float(np.median(high - low) / (2 * 1.96 * best.std())))
            width = float(np.median(widths)) if widths else None
            walks = triples * orders
            yield Row(f"barrier to 5 %: {kind}", name, f"{triples}x{orders}", held / walks, width, walks)
    reading._CHEAP = at_once


def of_bands(smoke: bool) -> Iterator[Row]:
    """The loss at all points at once, of lines and planes whose samples are taken in many orders, against all samples:
    networks that have learnt most digits, whose loss at the ends few samples make.
    """
    steps, orders = (5, 2) if smoke else (200, 60)
    images, make = digits(), functools.partial(perceptron, 64)
    few = [trained(make, images, steps, seed) for seed in range(4)]
    problem = Problem.from_model(few[0], images, "cross_entropy")
    at_once, reading._CHEAP = reading._CHEAP, 0
    lines = [(few[i], few[j]) for i, j in ((0, 1), (0, 2), (1, 3))]
    walk, plane = landscape.walk, functools.partial(landscape.plane, points=15)
    whats: list[tuple[str, Any, list[Any], dict[float, Any]]] = [
        ("loss along a line", walk, lines, {0.05: "0.05:loss", 0.2: "0.2:loss"}),
        ("loss over a plane", plane, [tuple(few[:3]), tuple(few[1:])], {0.05: 0.05, 0.2: 0.2}),
    ]
    for what, ask, places, tolerances in whats:
        exact = [ask(*each, problem=problem)["loss"] for each in places]
        for share, tolerance in tolerances.items():
            held = 0
            for each, loss in zip(places, exact, strict=True):
                for seed in range(orders):
                    found = ask(*each, problem=problem, tolerance=tolerance, seed=seed)
                    held += bool((np.abs(found["loss"] - loss) <= found["loss_error"] + 1e-6 * loss.max()).all())
            trials = orders * len(places)
            yield Row(
                f"{what} to {share:.0%}",
                "digits, MLP 64-64-64-10",
                f"{len(places)}x{orders}",
                held / trials,
                None,
                trials,
            )
    reading._CHEAP = at_once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few trials, not judged: does it run?")
    smoke = parser.parse_args().smoke
    logging.getLogger("landscape").setLevel(logging.ERROR)
    trials, truths = (40, 10_000) if smoke else (4000, 4_000_000)
    lines, means, nodes = ((6, 24), (8, 20), (20,)) if smoke else (
        (6, 8, 10, 12, 20, 24, 50, 100, 1000),
        (8, 10, 20, 40, 100),
        (20, 24, 50, 100),
    )  # fmt: skip
    rows: list[Row] = []
    tables = (
        of_proportions((8, 20) if smoke else (8, 20, 50, 100, 1000), np.linspace(0.02, 0.98, 49)),
        of_lines("median", LINES, lines, trials, truths),
        of_lines("mean", RATES, means, trials, truths),
        of_pairs(nodes, trials // 4, 60 if smoke else 1500),
        of_traces(trials // 10),
        of_densities(trials // 40),
        of_shares(trials // 10),
        of_unseen((20, 1000) if smoke else (20, 50, 250, 1000), trials // 2),
        of_figures(trials // 8, truths),
        of_barriers(smoke),
        of_bands(smoke),
    )
    print(f"{'statistic':<34} {'population':<38} {'n':>7}  covered  width")
    for table in tables:
        for row in table:
            rows.append(row)
            print(row, flush=True)
    if smoke:
        return 0
    bad = sum(not row.good for row in rows)
    print(
        f"{len(rows)} intervals: {len(rows) - bad} hold in {100 * LEAST:.0f} % and are at most {WIDEST} times as wide"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
