"""Of two inputs one is a noisy copy of the other: what makes a network leave it alone, and then learn its effect?

Questions: the study's second post hopes (a note) that L1, L2 or dropout force what is useless to 0 where one of two
inputs is noisily correlated with the other; "Diving deep" asks what training without an effect, then with it, does.
Measure: y = sin(2 x) is learnt from x and a copy z = x + noise; how far answers move when z alone is exchanged between
samples (root mean square, as a share of that of y), and the share of z's weights below 1/1000, by penalty. Then y =
sin(2 x) + z / 2 is learnt from there, and from random starts: steps to an error of 1/100. Answers that move no less
than without a penalty refute its use, as many steps as from random starts that what was learnt before helps.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape import Problem, Stack, Training, figures
from landscape.engine.objective import Objective
from landscape.problems.initialisation import initialise
from landscape.training.optimizers import OPTIMIZERS
from study import Study, curve, descend, spread

NOISE, SAMPLES, LIMIT, CLOSE = 0.5, 256, 1e-2, 1e-3
NAMES = ("moved by z", "weights of z below 1e-3", "steps to the effect of z")
WAYS: dict[str, dict[str, float]] = {"none": {}, "L2 1e-3": {"weight_decay": 1e-3}, "L2 1e-2": {"weight_decay": 1e-2}}
WAYS |= {f"L1 {factor:g}": {"l1": factor} for factor in (1e-2, 1e-1)}
WAYS |= {f"dropout {rate:g}": {"dropout": rate} for rate in (0.1, 0.3)}


def network(dropout: float = 0.0) -> nn.Module:
    """Two hidden layers of 32, dropout behind each."""
    first, second = ((nn.Linear(size, 32), nn.Tanh(), nn.Dropout(dropout)) for size in (2, 32))
    return nn.Sequential(*first, *second, nn.Linear(32, 1))


def samples(seed: int, effect: float) -> tuple[Tensor, Tensor]:
    """Inputs (x, z) and what is to be learnt."""
    draws = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(SAMPLES, 1, generator=draws) - 2
    z = x + NOISE * torch.randn(SAMPLES, 1, generator=draws)
    return torch.cat([x, z], 1), torch.sin(2 * x) + effect * z


def moved(stack: Stack) -> np.ndarray:
    """How far answers to other samples move when z is exchanged."""
    (inputs, targets), module = samples(1, 0.0), network().eval()
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(2))
    both = torch.cat([inputs, torch.stack([inputs[:, 0], inputs[order, 1]], 1)])
    answers = torch.vmap(lambda own: torch.func.functional_call(module, own, (both,)))(stack.tensors)
    apart = answers[:, :SAMPLES] - answers[:, SAMPLES:]
    return np.asarray((apart.square().mean((1, 2)) / targets.square().mean()).sqrt())


def steps_to(objective: Objective, stack: Stack, most: int) -> np.ndarray:
    """Steps of Adam until the error is at most the limit; `most` if it never is."""
    adam, flat, found = OPTIMIZERS["adam"], stack.flatten(), torch.full((len(stack),), most)
    moments = adam.begin(flat)
    for step in range(most):
        loss, gradient = objective.gradient(stack.unflatten(flat))
        found = torch.where((loss <= LIMIT) & (found == most), step, found)
        if (found < most).all():
            break
        flat = adam.step(flat, gradient.flatten(), moments, Training(lr=3e-3), step)
    return found.numpy()


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 300 steps: about 10 seconds on a core",
        full="100 seeds, 3,000 steps: about 5 minutes on a core",
    )
    seeds, budget = (8, 300) if study.quick else (100, 3000)
    later = Problem.from_model(network, samples(0, 0.5), nn.MSELoss()).objective()
    random = initialise(network(), range(seeds))
    first = steps_to(later, random, budget)

    def find(way: str) -> dict[str, Any]:
        how = WAYS[way]
        problem = Problem.from_model(lambda: network(how.get("dropout", 0.0)), samples(0, 0.0), nn.MSELoss())
        if "l1" in how:
            end = descend(problem.objective(), random, budget, lr=3e-3, l1=how["l1"])
        else:
            training = Training(batches=budget, lr=3e-3, save_at=(budget,), weight_decay=how.get("weight_decay", 0.0))
            end = study.train(problem, training, way, range(seeds)).checkpoint(budget).stack
        again = steps_to(later, end, budget)
        small = end.tensors["0.weight"][:, :, 1].abs() < CLOSE
        values = moved(end), small.double().mean(1).numpy(), again / np.maximum(first, 1)
        told = {name: spread(each) for name, each in zip(NAMES, values, strict=True)}
        return {**told, "error": spread(problem.objective()(end)["loss"].numpy()), "steps from random": spread(first)}

    cells = study.cells({"way": tuple(WAYS)}, find, seeds=seeds, budget=budget)
    found = [each["found"] for each in cells]
    caption = (
        f"y = sin(2 x) learnt from x and z = x + noise of {NOISE}, {SAMPLES} samples; two hidden layers of 32, tanh, "
        f"{seeds} seeds, {budget:,} steps of Adam at 3e-3. Moved: how far answers to other samples move when z is "
        "exchanged between them, over the root mean square of y. Steps: y = sin(2 x) + z / 2 learnt to a squared error "
        f"of {LIMIT}, without penalty, from there over from random starts. Medians with 95 % intervals each."
    )
    curves = [curve(name, range(len(found)), [each[name] for each in found]) for name in NAMES]
    look = {"xlabel": "penalty", "ylabel": "share (%)", "xscale": "category", "height": 3.2, "categories": tuple(WAYS)}
    study.draw(figures.series_figure([("", curves)], caption=caption, **look))
    study.done(str({way: each[NAMES[0]]["median"] for way, each in zip(WAYS, found, strict=True)}))


if __name__ == "__main__":
    main()
