"""Is my plot right? Closed forms that the walk must reproduce, through the engine, type and device that are used."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core.provenance import Source
from landscape.engine.data import Data
from landscape.engine.hessian import hessians
from landscape.engine.memory import choose_chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, template_of
from landscape.evaluation.routes import along, connect
from landscape.problems.base import Problem
from landscape.problems.compute import BACKENDS, Compute
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.model import from_model
from landscape.space.family import grid, line
from landscape.store.checkpoints import Checkpoint
from landscape.store.results import Result

__all__ = ["CHECKS", "Check", "Finding", "validate"]

#: Numbers expected and numbers measured, in arrays of one shape.
Numbers = tuple[np.ndarray, np.ndarray]

#: Lines of a walk, and its points: so many that they fill no chunk evenly, some of them beyond the ends.
_LINES, _POINTS, _SPAN = 3, 13, (-0.25, 1.25)


@dataclasses.dataclass(frozen=True)
class Check:
    """A closed form: `claim` says it, `measure` gives the numbers expected and those measured.

    `roundings` is the error allowed, in roundings of the element type (1.2e-7 in float32, 2.2e-16 in float64) relative
    to the largest number expected; 0 asks for the very same numbers.
    """

    name: str
    claim: str
    measure: Callable[[Compute], Numbers]
    roundings: int

    def tolerance(self, dtype: torch.dtype) -> float:
        """The relative error allowed."""
        return self.roundings * torch.finfo(dtype).eps


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found at the place of the largest error.

    `error` is relative to the largest number expected, absolute where all are 0. Where the computation failed, `reason`
    says why, and the numbers are NaN.
    """

    check: Check
    setting: Compute
    expected: float = math.nan
    measured: float = math.nan
    error: float = math.nan
    reason: str = ""

    @property
    def tolerance(self) -> float:
        """The error allowed."""
        return self.check.tolerance(self.setting.dtype)

    @property
    def ok(self) -> bool:
        """Whether the claim holds; NaN does not."""
        return not self.reason and self.error <= self.tolerance


def validate(setting: Compute, checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """What each check finds, all of `CHECKS` unless some are given; whatever goes wrong in one is its finding."""
    for check in CHECKS if checks is None else checks:
        try:
            expected, measured = check.measure(setting)
        except Exception as error:  # any failure of the installation is what is looked for
            text = str(error).strip().splitlines()
            yield Finding(check, setting, reason=f"{type(error).__name__}: {text[0] if text else 'no message'}")
            continue
        yield _compared(check, setting, np.asarray(expected, dtype=float), np.asarray(measured, dtype=float))


def _compared(check: Check, setting: Compute, expected: np.ndarray, measured: np.ndarray) -> Finding:
    if expected.shape != measured.shape:
        reason = f"{list(expected.shape)} numbers are expected, there are {list(measured.shape)}"
        return Finding(check, setting, reason=reason)
    errors = np.abs(measured - expected) / (np.abs(expected).max() or 1.0)
    worst = np.unravel_index(np.where(np.isnan(errors), np.inf, errors).argmax(), errors.shape)
    return Finding(check, setting, float(expected[worst]), float(measured[worst]), float(errors[worst]))


# What the checks share ------------------------------------------------------------------------------------------------


def _numbers(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers that float32 holds exactly, so that all types compute with the same."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def _members(problem: Problem, seed: int, count: int = _LINES) -> Stack:
    """Networks with such numbers as parameters; buffers are as the network begins."""
    template = template_of(problem.network())
    stack = template.unflatten(torch.from_numpy(_numbers(seed, count, template.parameters)))
    buffers = {name: buffer.expand(count, *buffer.shape[1:]).clone() for name, buffer in template.buffers.items()}
    return dataclasses.replace(stack, buffers=buffers)


def _walk(setting: Compute, problem: Problem, start: Stack, end: Stack) -> Result:
    ends = [
        Checkpoint(stack, tuple(Source(name, None, i, "", f"{name} {i}") for i in range(len(stack))), None)
        for name, stack in (("start", start), ("end", end))
    ]
    return along(setting.objective(problem), connect(*ends), grid(_POINTS, *_SPAN))


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as numbers of full precision."""
    return tensor.detach().cpu().double().numpy()


def _with_ones(inputs: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample feature_and_one"]:
    """Inputs with a further one that is always 1, which the bias weighs."""
    return np.column_stack([inputs, np.ones(len(inputs))])


def _rows(stack: Stack) -> Float[np.ndarray, "member out in_and_one"]:
    """Weights of a linear layer with the bias beside them."""
    return np.concatenate([_array(stack["weight"]), _array(stack["bias"])[..., None]], axis=2)


def _flat(rows: Float[np.ndarray, "member out in_and_one"]) -> Float[np.ndarray, "member parameter"]:
    """Such rows in the order of `Stack.flatten`."""
    return np.concatenate([rows[..., :-1].reshape(len(rows), -1), rows[..., -1]], axis=1)


def _cross_entropy(
    logits: Float[np.ndarray, "*member sample class"], classes: np.ndarray
) -> Float[np.ndarray, "*member sample"]:
    """log sum exp of the logits less that of the class."""
    largest = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
    index = np.broadcast_to(classes, logits.shape[:-1])[..., None]
    losses: np.ndarray = total - np.take_along_axis(logits, index, -1)[..., 0]
    return losses


# Linear regression: loss |XW' - Y|^2 / (N K) --------------------------------------------------------------------------

_INPUTS, _TARGETS = _numbers(1, 45, 5), _numbers(2, 45, 3)


def _regression() -> Problem:
    return from_model(nn.Linear(5, 3), (_INPUTS, _TARGETS), "mse")


def _parabola(setting: Compute) -> Numbers:
    problem = _regression()
    start, end = _members(problem, 3), _members(problem, 4)
    curves = _walk(setting, problem, start, end)
    x = _with_ones(_INPUTS)
    residual = x @ _rows(start).swapaxes(1, 2) - _TARGETS
    change = x @ (_rows(end) - _rows(start)).swapaxes(1, 2)
    square, mixed, constant = (
        (one * other).mean((1, 2))[:, None]
        for one, other in ((change, change), (residual, change), (residual, residual))
    )
    return square * curves.alpha**2 + 2 * mixed * curves.alpha + constant, curves.loss


def _regression_gradient(setting: Compute) -> Numbers:
    problem = _regression()
    stack = _members(problem, 3)
    x = _with_ones(_INPUTS)
    residual = x @ _rows(stack).swapaxes(1, 2) - _TARGETS
    expected = 2 / _TARGETS.size * residual.swapaxes(1, 2) @ x
    return _flat(expected), _array(setting.stacks(problem).gradient(stack)[1].flatten())


def _regression_hessian(setting: Compute) -> Numbers:
    problem = _regression()
    stack = _members(problem, 3)
    x, outputs = _with_ones(_INPUTS), _TARGETS.shape[1]
    # Of each output the places of its weights and bias among all parameters; outputs do not mix.
    count = outputs * x.shape[1]
    places = np.column_stack([np.arange(count - outputs).reshape(outputs, -1), np.arange(count - outputs, count)])
    expected = np.zeros((count, count))
    for own in places:
        expected[np.ix_(own, own)] = 2 / _TARGETS.size * x.T @ x
    found = hessians(setting.stacks(problem), stack)
    return np.broadcast_to(expected, found.shape), found


# Logistic regression: p = 1 / (1 + exp(-Xw)) --------------------------------------------------------------------------

_LABELS = (_TARGETS[:, :1] > 0).astype(float)


def _logistic(setting: Compute) -> tuple[Objective, Stack, np.ndarray, np.ndarray]:
    """Objective, members, inputs, and the probability of each sample at each member."""
    problem = from_model(nn.Linear(5, 1), (_INPUTS, _LABELS), "bce")
    stack, x = _members(problem, 5), _with_ones(_INPUTS)
    probability = 1 / (1 + np.exp(-x @ _rows(stack).swapaxes(1, 2)))
    return setting.stacks(problem), stack, x, probability


def _logistic_gradient(setting: Compute) -> Numbers:
    objective, stack, x, probability = _logistic(setting)
    expected = (probability - _LABELS).swapaxes(1, 2) @ x / len(x)
    return _flat(expected), _array(objective.gradient(stack)[1].flatten())


def _logistic_hessian(setting: Compute) -> Numbers:
    objective, stack, x, probability = _logistic(setting)
    variance = probability * (1 - probability)
    return x.T @ (variance * x) / len(x), hessians(objective, stack)


# Deep networks --------------------------------------------------------------------------------------------------------

_DEPTH = 3


def _deep_linear(setting: Compute) -> tuple[Result, Sequence[np.polynomial.Polynomial], np.ndarray]:
    """Curves of deep linear networks, the polynomial through 2L + 1 of each curve's points, and the product of all
    layers' changes: what the inputs meet in the highest power of alpha.
    """
    layers = [nn.Linear(5, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)]
    problem = from_model(nn.Sequential(*layers), (_INPUTS, _TARGETS), "mse")
    start, end = _members(problem, 6), _members(problem, 7)
    curves = _walk(setting, problem, start, end)
    known = slice(None, None, 2)  # of 13 points 7
    polynomials = [
        np.polynomial.Polynomial.fit(curves.alpha[known], loss[known], 2 * _DEPTH, rcond=0.0) for loss in curves.loss
    ]
    first, second, third = (_array(end[name] - start[name]) for name in start.tensors)
    return curves, polynomials, third @ second @ first


def _deep_linear_points(setting: Compute) -> Numbers:
    curves, polynomials, _ = _deep_linear(setting)
    return np.stack([polynomial(curves.alpha) for polynomial in polynomials]), curves.loss


def _deep_linear_power(setting: Compute) -> Numbers:
    _, polynomials, change = _deep_linear(setting)
    expected = np.square(_INPUTS @ change.swapaxes(1, 2)).mean((1, 2))
    return expected, np.array([polynomial.convert().coef[-1] for polynomial in polynomials])


def _rescaled(setting: Compute) -> Numbers:
    layers = [nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)]
    problem = from_model(nn.Sequential(*layers), (_INPUTS, _TARGETS), "mse")
    start, factor = _members(problem, 8), 4.0
    first, second = (_array(tensor) for tensor in start.tensors.values())
    end = Stack(dict(zip(start.tensors, (start["0.weight"] * factor, start["2.weight"] / factor), strict=True)))
    curves = _walk(setting, problem, start, end)
    outputs = np.maximum(_INPUTS @ first.swapaxes(1, 2), 0) @ second.swapaxes(1, 2)
    t = curves.alpha
    scale = ((1 - t + t * factor) * (1 - t + t / factor))[:, None, None]
    return np.stack([np.square(scale * one - _TARGETS).mean((1, 2)) for one in outputs]), curves.loss


# Classification -------------------------------------------------------------------------------------------------------

_CLASSES = 4
_CHOSEN = np.random.default_rng(9).integers(0, _CLASSES, len(_INPUTS))


def _softmax_losses(start: Stack, end: Stack, alpha: np.ndarray) -> Float[np.ndarray, "line point sample"]:
    """Cross-entropy of softmax regression at each point of each line, sample by sample."""
    x = _with_ones(_INPUTS)
    from_start, from_end = (x @ _rows(stack).swapaxes(1, 2) for stack in (start, end))
    t = alpha[:, None, None]
    return _cross_entropy((1 - t) * from_start[:, None] + t * from_end[:, None], _CHOSEN)


def _zero_weights(setting: Compute) -> Numbers:
    problem = from_model(nn.Linear(5, _CLASSES), (_INPUTS, _CHOSEN), "cross_entropy")
    end = _members(problem, 10)
    curves = _walk(setting, problem, end.map(torch.zeros_like), end)
    return np.full(_LINES, math.log(_CLASSES)), curves.loss[:, curves.alpha == 0][:, 0]


def _weighted(setting: Compute) -> Numbers:
    counts = np.random.default_rng(11).integers(0, 4, len(_INPUTS))
    weighted = from_model(nn.Linear(5, _CLASSES), (_INPUTS, _CHOSEN, counts.astype(float)), "cross_entropy")
    repeated = from_model(
        nn.Linear(5, _CLASSES), (_INPUTS.repeat(counts, axis=0), _CHOSEN.repeat(counts)), "cross_entropy"
    )
    start, end = _members(weighted, 12), _members(weighted, 13)
    found = [_walk(setting, problem, start, end) for problem in (weighted, repeated)]
    expected = _softmax_losses(start, end, found[0].alpha) @ (counts / counts.sum())
    return np.stack([expected] * 2), np.stack([curves.loss for curves in found])


def _streamed(setting: Compute) -> Numbers:
    kept = from_model(nn.Linear(5, _CLASSES), (_INPUTS, _CHOSEN), "cross_entropy")
    samples = torch.utils.data.TensorDataset(torch.from_numpy(_INPUTS).float(), torch.from_numpy(_CHOSEN))
    loader = torch.utils.data.DataLoader(samples, batch_size=14)  # the last batch is smaller
    streamed = from_model(nn.Linear(5, _CLASSES), loader, "cross_entropy")
    start, end = _members(kept, 14), _members(kept, 15)
    found = [_walk(setting, problem, start, end) for problem in (streamed, kept)]
    expected = _softmax_losses(start, end, found[0].alpha).mean(-1)
    return np.stack([expected] * 2), np.stack([curves.loss for curves in found])


# BatchNorm ------------------------------------------------------------------------------------------------------------


def _normalised() -> Problem:
    """A network with BatchNorm whose variances dwarf what is added to them."""
    layers = [nn.Linear(5, 6), nn.BatchNorm1d(6, eps=1e-20), nn.ReLU(), nn.Linear(6, _CLASSES)]
    return from_model(nn.Sequential(*layers), (_INPUTS, _CHOSEN), "cross_entropy")


def _recalibrated(setting: Compute) -> Numbers:
    problem = _normalised()
    start, end = _members(problem, 16), _members(problem, 17)
    curves = _walk(setting, problem, start, end)
    inputs, classes = torch.from_numpy(_INPUTS), torch.from_numpy(_CHOSEN)
    expected = np.empty((_LINES, 2))
    for number in range(_LINES):
        for place, stack in enumerate((start, end)):
            module = problem.network().double()
            module.load_state_dict(copy.deepcopy(stack.state_dict(number)))
            torch.optim.swa_utils.update_bn([inputs], module)
            with torch.no_grad():
                expected[number, place] = nn.functional.cross_entropy(module.eval()(inputs), classes)
    return expected, np.stack([curves.loss[:, curves.alpha == alpha][:, 0] for alpha in (0, 1)], axis=1)


def _scale_free(setting: Compute) -> Numbers:
    problem = _normalised()
    start = _members(problem, 18)
    scaled = {name: tensor * 4 if name.startswith("0.") else tensor for name, tensor in start.tensors.items()}
    curves = _walk(setting, problem, start, dataclasses.replace(start, tensors=scaled))
    weight, bias, scale, shift, head, head_bias = (_array(tensor) for tensor in start.tensors.values())
    before = _INPUTS @ weight.swapaxes(1, 2) + bias[:, None]
    # Running statistics hold the unbiased variance.
    normal = (before - before.mean(1, keepdims=True)) / before.std(1, ddof=1, keepdims=True)
    hidden = np.maximum(normal * scale[:, None] + shift[:, None], 0)
    loss = _cross_entropy(hidden @ head.swapaxes(1, 2) + head_bias[:, None], _CHOSEN).mean(1)
    return np.broadcast_to(loss[:, None], curves.loss.shape), curves.loss


# The Game of Life, whose solution is known ----------------------------------------------------------------------------


def _solution(setting: Compute) -> Numbers:
    problem = Life(rule="B3/S23", activation="relu", sigmoid=False)
    solution = problem.landmark("presolve")
    curves = _walk(setting, problem, solution, _members(problem, 19))
    found = [curves.values[name][:, curves.alpha == 0] for name in ("loss", "right")]
    live = float(setting.stacks(problem).predictions(solution).sum())
    # Born of 3 neighbours in 8, and surviving with 2 or 3.
    patterns = 2 * math.comb(8, 3) + math.comb(8, 2)
    expected = np.array([*[0] * _LINES, *[2**9] * _LINES, patterns], dtype=float)
    return expected, np.concatenate([*(each[:, 0] for each in found), [live]])


# The ends -------------------------------------------------------------------------------------------------------------


def _far_apart(problem: Problem) -> tuple[Stack, Stack]:
    """Ends whose difference rounds."""
    return _members(problem, 20).map(lambda tensor: tensor * 1e6), _members(problem, 21).map(lambda tensor: tensor / 7)


def _ends_of_parameters(setting: Compute) -> Numbers:
    start, end = (side.to(setting.device, setting.dtype) for side in _far_apart(_regression()))
    lines = torch.arange(_LINES, device=start.device)
    found = [line(start, end).at(lines, torch.full_like(lines, alpha, dtype=torch.float64)) for alpha in (0, 1)]
    expected, measured = (np.stack([_array(stack.flatten()) for stack in stacks]) for stacks in ((start, end), found))
    return expected, measured


def _ends_of_losses(setting: Compute) -> Numbers:
    problem = _regression()
    start, end = _far_apart(problem)
    curves, objective = _walk(setting, problem, start, end), setting.objective(problem)
    expected = [_array(objective(stack)["loss"]) for stack in (start, end)]
    return np.stack(expected), np.stack([curves.loss[:, curves.alpha == alpha][:, 0] for alpha in (0, 1)])


# Companions -----------------------------------------------------------------------------------------------------------

#: So many networks are trained together, some of them alone too, for so many steps on so many samples.
_TOGETHER, _ALONE, _STEPS, _BATCH = 24, (0, 7, 21), 3, 32


def _companions(setting: Compute) -> Numbers:
    """Losses, gradients and parameters of networks alone, and among others: on the same data, and each on its own."""
    x, y = _numbers(22, 2048, 5), _numbers(23, 2048, 2)  # so many that threads would share the sum over them
    problems = {"exact": from_model(nn.Linear(5, 2), (x, y), "mse"), "batches": Life(steps=2, board="5x5")}
    together, alone = [], []
    for data, problem in problems.items():
        members = initialise(problem.network(), range(_TOGETHER))
        together.append(_descended(setting, problem, data, members, range(_TOGETHER))[list(_ALONE)])
        rows = [_descended(setting, problem, data, members.select([seed]), [seed]) for seed in _ALONE]
        alone.append(np.concatenate(rows))
    return np.concatenate(alone, axis=1), np.concatenate(together, axis=1)


def _descended(setting: Compute, problem: Problem, data: str, members: Stack, seeds: Sequence[int]) -> np.ndarray:
    """[member, number]: loss and gradient at each of a few steps down the gradient, in chunks as training has them."""
    objective = problem.training_objective(data, device=setting.device, dtype=setting.dtype)
    objective = objective.with_backend(BACKENDS[setting.engine])
    stack, found = members.to(setting.device, setting.dtype), list[Tensor]()
    for step in range(_STEPS):
        batch: Data = objective.memory
        if data == "batches":  # a lone member's comes twice, or it would be data that all share
            keys = torch.tensor([*seeds] if len(seeds) > 1 else [*seeds] * 2, device=objective.device)
            batch = problem.training_batch(keys, step, _BATCH, device=setting.device, dtype=setting.dtype)
        chunk = choose_chunk(objective.network, batch, training=True, most=len(seeds))
        loss, gradient = dataclasses.replace(objective, chunk=chunk).gradient(stack, batch)
        found += [loss[:, None], gradient.flatten()]
        stack = dataclasses.replace(stack.unflatten(stack.flatten() - 0.1 * gradient.flatten()), buffers=stack.buffers)
    return _array(torch.cat(found, dim=1))


#: All of them, in the order of what they need: a layer, several, data of several kinds, statistics, a known solution.
CHECKS: Sequence[Check] = (
    Check("ends", "parameters at alpha 0 and 1 are those of the checkpoints, bit for bit", _ends_of_parameters, 0),
    Check("end-losses", "a walk's losses at alpha 0 and 1 are those of the checkpoints alone", _ends_of_losses, 0),
    Check("linear-loss", "linear regression: L = |r + alpha d|^2 / NK, a parabola", _parabola, 30),
    Check("linear-gradient", "linear regression: gradient 2 X'(XW' - Y) / NK", _regression_gradient, 30),
    Check("linear-hessian", "linear regression: Hessian 2 X'X / NK for each output", _regression_hessian, 50),
    Check("logistic-gradient", "logistic regression: gradient X'(p - y) / N", _logistic_gradient, 30),
    Check("logistic-hessian", "logistic regression: Hessian X' diag(p (1 - p)) X / N", _logistic_hessian, 50),
    Check("zero-weights", "softmax regression with zero weights: L = log C", _zero_weights, 10),
    Check("deep-linear", "L linear layers: 2L + 1 points of a line tell the others", _deep_linear_points, 50),
    Check("deep-linear-power", "L linear layers: alpha^2L weighs |X D1' ... DL'|^2 / NK", _deep_linear_power, 1000),
    Check("rescaled-relu", "ReLU layers times c, 1/c: outputs times (1 - t + tc)(1 - t + t/c)", _rescaled, 30),
    Check("weights", "samples with weights are samples repeated, L in closed form", _weighted, 30),
    Check("stream", "streamed batches are data in memory, L in closed form", _streamed, 30),
    Check("batchnorm-ends", "BatchNorm: ends are the plain module's after update_bn", _recalibrated, 100),
    Check("batchnorm-scale", "BatchNorm: L does not change with the scale of the layer before", _scale_free, 100),
    Check("life-solution", "Life's known network: loss 0, 512 patterns right, 140 live", _solution, 0),
    Check("companions", "a network's losses and gradients in training are the same alone and among 24", _companions, 0),
)
