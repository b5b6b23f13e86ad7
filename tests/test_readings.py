"""Losses as people write them: the value over the data is PyTorch's own on all data at once, however it is parted."""

import functools
import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape
from landscape import Problem
from landscape.core.errors import LandscapeError, Mismatch, Unsupported, Unverified

CLASSES, FEATURES, COUNT = 5, 4, 60
_RNG = torch.Generator().manual_seed(0)
X = torch.randn(COUNT, FEATURES, generator=_RNG)
WEIGHT = torch.tensor([0.2, 3.0, 1.0, 0.0, 2.0])
#: Class numbers, of which those after the first eight are partly 0.
Y = torch.cat([torch.arange(1, 9) % 4 + 1, torch.randint(0, CLASSES, (COUNT - 8,), generator=_RNG)])
#: Tokens, of which later samples have fewer.
TOKENS = torch.randint(0, CLASSES, (COUNT, 6), generator=_RNG)
PADDED = torch.where(torch.arange(6) < (6 - torch.arange(COUNT)[:, None] // 11), TOKENS, -100)


class Tokens(nn.Module):
    """Logits of six tokens, [sample, class, token]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 6 * CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(-1, CLASSES, 6)


def flat() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES)


def number(loss: Tensor) -> float:
    return float(loss.detach())


def ends(make: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    return make(), make()


def by_hand(a: nn.Module, b: nn.Module, alpha: float, loss: Any, x: Tensor, y: Tensor) -> float:
    """The number that a loop of one's own prints."""
    module, other = type(a)(*_arguments(a)), dict(b.named_parameters())
    module.load_state_dict({name: (1 - alpha) * each + alpha * other[name] for name, each in a.named_parameters()})
    with torch.no_grad():
        return float(loss(module(x), y).double().mean())


def _arguments(module: nn.Module) -> tuple[int, ...]:
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else ()


#: What makes the model, the loss, and targets.
TRAPS: dict[str, tuple[Any, Any, Tensor]] = {
    "targets ignored after the first eight": (flat, nn.CrossEntropyLoss(ignore_index=0), Y),
    "weights of classes": (flat, nn.CrossEntropyLoss(weight=WEIGHT), Y),
    "weights of classes and ignored targets": (flat, nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2), Y),
    "smoothed labels and weights": (flat, nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), Y),
    "weights in a function": (flat, lambda o, t: F.cross_entropy(o, t, weight=WEIGHT), Y),
    "weights in a partial function": (flat, functools.partial(F.cross_entropy, weight=WEIGHT), Y),
    "padded sequences": (Tokens, nn.CrossEntropyLoss(), PADDED),
    "padded sequences by name": (Tokens, "cross_entropy", PADDED),
    "padded sequences with weights": (Tokens, nn.CrossEntropyLoss(weight=WEIGHT), PADDED),
    "flattened tokens": (
        Tokens,
        lambda o, t: F.cross_entropy(o.movedim(1, -1).reshape(-1, CLASSES), t.reshape(-1), ignore_index=-100),
        PADDED,
    ),
    "sum": (flat, nn.CrossEntropyLoss(reduction="sum"), Y),
    "sum of squares": (flat, nn.MSELoss(reduction="sum"), X.new_ones(COUNT, CLASSES)),
    "divergence": (flat, nn.KLDivLoss(reduction="batchmean"), torch.ones(COUNT, CLASSES) / CLASSES),
    "huber": (flat, nn.HuberLoss(delta=0.3), X.new_ones(COUNT, CLASSES)),
    "weights of positives": (flat, nn.BCEWithLogitsLoss(pos_weight=WEIGHT), F.one_hot(Y, CLASSES).float()),
    "no reduction, with weights": (flat, nn.CrossEntropyLoss(weight=WEIGHT, reduction="none"), Y),
    "no reduction, with ignored targets": (flat, nn.CrossEntropyLoss(ignore_index=0, reduction="none"), Y),
    "probabilities": (flat, nn.CrossEntropyLoss(), F.one_hot(Y, CLASSES).float() * 0.9 + 0.02),
    "smallest of the batch": (flat, lambda o, t: F.cross_entropy(o, t, reduction="none").max(), Y),
    "spread of the batch": (flat, lambda o, t: o.std(0).mean() + F.cross_entropy(o, t), Y),
}

#: Those that are no means over samples, so that stacks of networks refuse them.
ALONE = (
    "weights in a function",
    "flattened tokens",
    "sum",
    "sum of squares",
    "smallest of the batch",
    "spread of the batch",
)


@pytest.mark.parametrize("engine", ["auto", "plain", "stacked"])
@pytest.mark.parametrize("name", TRAPS)
def test_a_walk_has_the_loss_of_ones_own_loop(name: str, engine: Any) -> None:
    make, loss, targets = TRAPS[name]
    a, b = ends(make)
    function = nn.CrossEntropyLoss() if isinstance(loss, str) else loss
    problem = Problem.from_model(make, (X, targets), loss)
    if engine == "stacked" and name in ALONE:
        with pytest.raises(Unsupported, match="is evaluated one network after another"):
            landscape.walk(a, b, problem=problem, points=4, engine=engine)
        return
    found = landscape.walk(a, b, problem=problem, points=4, engine=engine)
    for alpha, value in zip(found.alpha, found["loss"][0], strict=True):
        assert value == pytest.approx(by_hand(a, b, float(alpha), function, X, targets), rel=2e-6), alpha


@given(
    reduction=st.sampled_from(["mean", "sum"]),
    weighted=st.booleans(),
    ignore=st.sampled_from([-100, 0, 3]),
    smoothing=st.sampled_from([0.0, 0.2]),
    batch_size=st.sampled_from([1, 7, 32, COUNT]),
    streamed=st.booleans(),
    tokens=st.booleans(),
)
def test_any_setting_of_cross_entropy_in_any_batches(
    reduction: Any, weighted: bool, ignore: int, smoothing: float, batch_size: int, streamed: bool, tokens: bool
) -> None:
    weight = WEIGHT if weighted else None
    loss = nn.CrossEntropyLoss(weight, ignore_index=ignore, label_smoothing=smoothing, reduction=reduction)
    make, targets = (Tokens, torch.where(PADDED == -100, ignore, PADDED)) if tokens else (flat, Y)
    if not tokens and ignore == -100:
        targets = torch.where(torch.arange(COUNT) % 3 == 0, -100, Y)
    a, _ = ends(make)
    data: Any = (X, targets)
    if streamed:
        data = DataLoader(TensorDataset(*data), batch_size=batch_size)
    problem = Problem.from_model(a, data, loss, batch_size=None if streamed else batch_size)
    found = problem.plain()(landscape.problems.places.held(a, "a").stack)  # type: ignore[attr-defined]
    with torch.no_grad():
        outputs = a(X)
    assert float(found["loss"]) == pytest.approx(number(loss(outputs, targets)), rel=2e-6)
    there = targets != ignore
    hits = (outputs.argmax(1) == targets)[there].double().mean()
    assert float(found["accuracy"]) == pytest.approx(float(hits), rel=1e-12)


def test_training_descends_the_weighted_loss_of_its_batches(tmp_path: Any) -> None:
    loss = nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2)
    problem = Problem.from_model(flat, (X, Y), loss)
    run = landscape.train(
        problem, {"optimizer": "sgd", "lr": 0.3, "batches": 5, "batch_size": 24}, tmp_path / "run", seeds=[1, 2]
    )
    for member, seed in enumerate([1, 2]):
        module = flat()
        module.load_state_dict(problem.initial([seed]).state_dict(0))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
        for step in range(5):
            batch = problem.training_batch(torch.tensor([seed]), step, 24, device="cpu", dtype=torch.float32)
            few = batch.samples(0, 24)
            optimizer.zero_grad()
            loss(module(few.inputs[0].T), few.targets[0]).backward()
            optimizer.step()
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(run.checkpoint().stack.state_dict(member)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_third_tensor_weighs_samples_only_when_asked() -> None:
    extra = torch.rand(COUNT)
    for data in (TensorDataset(X, Y, extra), DataLoader(TensorDataset(X, Y, extra), batch_size=7)):
        with pytest.raises(Unsupported, match="say `weights=True` if the third weighs the samples"):
            Problem.from_model(flat, data, "cross_entropy")
        problem = Problem.from_model(flat, data, "cross_entropy", weights=True)
        a, b = ends(flat)
        with torch.no_grad():
            each = F.cross_entropy(a(X), Y, reduction="none")
        found = landscape.walk(a, b, problem=problem, points=2, engine="plain")["loss"][0, 0]
        assert found == pytest.approx(float((each * extra).sum() / extra.sum()), rel=1e-5)


# Losses that read a model and a batch ---------------------------------------------------------------------------------


def dicts(size: int) -> list[dict[str, Tensor]]:
    return [{"x": X[i : i + size], "labels": PADDED[i : i + size]} for i in range(0, COUNT, size)]


class Own(Tokens):
    """One that returns its loss, as Hugging Face's do."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits} if labels is not None else logits


def test_batches_of_dicts_and_pairs_of_sum_and_count() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
        logits = model(batch["x"])
        there = batch["labels"] != -100
        total = F.cross_entropy(logits, batch["labels"], reduction="sum")
        return {"loss": (total, there.sum()), "hits": ((logits.argmax(1) == batch["labels"])[there].sum(), there.sum())}

    a, b = ends(Tokens)
    problem = Problem.from_model(Tokens, dicts(11), batch_loss=loss)
    found = landscape.walk(a, b, problem=problem, points=3)
    for alpha, value in zip(found.alpha, found["loss"][0], strict=True):
        assert value == pytest.approx(by_hand(a, b, float(alpha), F.cross_entropy, X, PADDED), rel=2e-6)
    assert ((found["hits"] > 0) & (found["hits"] < 1)).all()
    assert "loss_se" not in found.values


def test_a_models_own_loss_needs_a_weight_that_it_is_a_mean_of() -> None:
    with pytest.raises(LandscapeError, match=r"it is no mean over samples\. Give `batch_weight`"):
        Problem.from_model(Own, dicts(31), batch_loss="own")
    problem = Problem.from_model(
        Own, dicts(31), batch_loss="own", batch_weight=lambda batch: (batch["labels"] != -100).sum()
    )
    a, b = ends(Own)
    found = landscape.walk(a, b, problem=problem, points=2)["loss"][0]
    assert found[0] == pytest.approx(number(F.cross_entropy(a(X), PADDED)), rel=2e-6)


def test_a_loss_that_differentiates_in_its_inputs() -> None:
    """A network that is asked to solve u' = u."""

    def residual(model: nn.Module, batch: Tensor) -> Tensor:
        x = batch.clone().requires_grad_()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (slope - u).square().mean()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    a, b = ends(make)
    points = torch.linspace(0, 1, 20)[:, None]
    found = landscape.walk(a, b, problem=Problem.from_model(make, points, batch_loss=residual), points=3)
    assert found["loss"][0, 0] == pytest.approx(number(residual(a, points)), rel=2e-6)
    assert found["loss"][0, 2] == pytest.approx(number(residual(b, points)), rel=2e-6)


def test_a_loss_over_pairs_of_a_batch_with_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(FEATURES, 3), nn.Linear(FEATURES, 3)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.left(x), self.right(y)

    def contrast(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = model(*batch)
        return F.cross_entropy(x @ y.T, torch.arange(len(x)))

    a, b = ends(Two)
    whole = Problem.from_model(Two, (X, -X), batch_loss=contrast)
    assert landscape.walk(a, b, problem=whole, points=2)["loss"][0, 0] == pytest.approx(
        number(contrast(a, (X, -X))), rel=2e-6
    )
    parts = Problem.from_model(Two, (X, -X), batch_loss=contrast, batch_size=20)
    expected = sum(number(contrast(a, (X[i : i + 20], -X[i : i + 20]))) for i in (0, 20, 40)) / 3
    assert landscape.walk(a, b, problem=parts, points=2)["loss"][0, 0] == pytest.approx(expected, rel=2e-6)


def test_train_and_test_are_found_in_one_pass() -> None:
    problem = Problem.from_model(flat, (X[:40], Y[:40]), "cross_entropy", test=(X[40:], Y[40:]))
    a, b = ends(flat)
    found = landscape.walk(a, b, problem=problem, points=3)
    assert found["loss"][0, 0] == pytest.approx(number(F.cross_entropy(a(X[:40]), Y[:40])), rel=2e-6)
    assert found["test_loss"][0, 2] == pytest.approx(number(F.cross_entropy(b(X[40:]), Y[40:])), rel=2e-6)
    assert {"test_accuracy", "test_loss_se"} <= found.values.keys()
    figure = found.plot()
    assert any(each.get_gid() == "test" for ax in figure.axes for each in ax.collections)
    low, high = figure.axes[0].get_ylim()
    assert low < found["test_loss"].min() < found["test_loss"].max() < high
    alone = Problem.from_model(flat, (X[:40], Y[:40]), "cross_entropy")
    both = [landscape.curvature(a, problem=each, top=2, engine="plain").eigenvalues for each in (problem, alone)]
    np.testing.assert_array_equal(*both)
    ends_ = [
        landscape.connect(a, b, problem=each, method="bezier", steps=3, points=3, engine="plain")
        for each in (problem, alone)
    ]
    np.testing.assert_array_equal(ends_[0]["loss"], ends_[1]["loss"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"loss": "mse", "batch_loss": lambda m, b: 0},
            LandscapeError,
            "give `loss`, a function of outputs",
        ),
        ({}, LandscapeError, "give `loss`, a function of outputs and targets, or `batch_loss`"),
        ({"batch_loss": "theirs"}, LandscapeError, '`batch_loss` is a function of a model and a batch, or "own"'),
        ({"batch_loss": lambda m, b: m(b[0])}, Unsupported, r"gives loss of shape \[60, 5\]: let it give a scalar"),
        ({"batch_loss": lambda m, b: {"nll": m(b[0]).mean()}}, LandscapeError, "gives nll, but no `loss`"),
        ({"batch_loss": lambda m, b: m(b["x"])}, Mismatch, "does not run on the first batch: TypeError"),
        ({"batch_loss": lambda m, b: m(b[0]).mean() * float("nan")}, LandscapeError, "is NaN on its first batches"),
        ({"batch_loss": lambda m, b: m(b[0]).mean(), "weights": True}, LandscapeError, "what `batch_loss` gives"),
        ({"loss": "cross_entropy", "batch_weight": len}, LandscapeError, "`batch_weight` is for `batch_loss`"),
        ({"batch_loss": "own"}, Unsupported, "the model returns Tensor without a loss|takes"),
    ],
)
def test_what_makes_no_loss_is_refused_in_one_line(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises((error, LandscapeError), match=message) as caught:
        Problem.from_model(flat, (X, Y), **options)
    assert "\n" not in str(caught.value)


# Silent errors --------------------------------------------------------------------------------------------------------


def test_a_forward_that_reaches_the_original_is_named() -> None:
    a, b = ends(flat)
    original = flat()
    model = flat()
    model.forward = lambda x: F.linear(x, original.weight, original.bias)  # type: ignore[method-assign]
    problem = Problem.from_model(model, (X, Y), "cross_entropy")
    with pytest.raises(Unverified, match="at each point, whatever the parameters"):
        landscape.walk(a, b, problem=problem, points=5, engine="plain")


def test_a_loss_that_closes_over_the_callers_model_is_named() -> None:
    own, other = ends(flat)

    def penalty(outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets) + sum(each.square().sum() for each in own.parameters())

    with pytest.raises(LandscapeError, match=r"the loss reads (weight|bias) of the model that was given"):
        Problem.from_model(own, (X, Y), batch_loss=lambda model, batch: penalty(model(batch[0]), batch[1]))
    with pytest.raises(LandscapeError, match="Write `batch_loss`, which gets the model as an argument"):
        Problem.from_model(own, (X, Y), penalty)
    teacher = flat()

    def distilled(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - teacher(batch[0])).square().mean()

    found = landscape.walk(own, other, problem=Problem.from_model(own, (X, Y), batch_loss=distilled), points=3)
    assert found["loss"][0, 2] == pytest.approx(number(distilled(other, (X, Y))), rel=2e-6)


def test_a_loss_that_is_the_same_whatever_the_parameters_is_named() -> None:
    a, b = ends(flat)
    constant = Problem.from_model(flat, (X, Y), batch_loss=lambda model, batch: batch[0].square().mean())
    with pytest.raises(Unverified, match="`batch_loss` gets the model as an argument"):
        landscape.walk(a, b, problem=constant, points=5)


def test_dead_networks_are_no_error() -> None:
    """A loss may be flat along a line that rectifiers cut off: elsewhere it is not."""
    a, b = (nn.Sequential(nn.Linear(FEATURES, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(2))
    for module, scale in ((a, 1.0), (b, 2.0)):
        for linear, bias in ((module[0], -50.0), (module[2], 0.5)):
            assert isinstance(linear, nn.Linear)
            nn.init.constant_(linear.weight, scale)
            nn.init.constant_(linear.bias, bias)
    problem = Problem.from_model(a, (X, X[:, :1]), "mse")
    assert len(set(landscape.walk(a, b, problem=problem, points=5, engine="plain")["loss"][0].tolist())) == 1


def test_batches_keep_their_structure() -> None:
    from landscape.engine.batches import common_length, mapped, moved, parted, tensors_of

    structure = {"a": (X, [Y, "name"]), "b": {"c": X.double(), "d": 3}}
    pointers = [each.data_ptr() for each in (X, Y, structure["b"]["c"])]  # type: ignore[index]
    assert [each.data_ptr() for each in tensors_of(structure)] == pointers
    there = moved(structure, torch.device("cpu"), torch.float64)
    assert (there["a"][0].dtype, there["a"][1][0].dtype) == (torch.float64, torch.int64)
    assert there["a"][1][1] == "name"
    assert common_length(structure) == COUNT
    assert common_length((X, Y[:3])) is None
    parts = list(parted(structure, 25))
    assert [len(part["a"][0]) for part in parts] == [25, 25, 10]
    assert torch.equal(torch.cat([part["b"]["c"] for part in parts]), X.double())
    assert mapped(structure, lambda each: None)["b"]["d"] == 3
    assert list(itertools.chain(*(part["a"][1][1] for part in parts))) == list("name") * 3


def test_a_penalty_of_the_parameters_is_that_of_weight_decay() -> None:
    a, b = ends(flat)
    a.bias.requires_grad_(False)
    plain = landscape.walk(a, b, problem=Problem.from_model(a, (X, Y), "cross_entropy"), points=3, engine="plain")
    data = {"train": (X, Y), "test": (X[:9], Y[:9])}
    found = landscape.walk(a, b, problem=Problem.from_model(a, data, "cross_entropy", l2=0.3), points=3)
    penalty = 0.15 * float(b.weight.detach().double().square().sum())
    assert found["loss"][0, 2] == pytest.approx(plain["loss"][0, 2] + penalty, rel=1e-6)
    np.testing.assert_allclose(found["loss_se"], plain["loss_se"], rtol=1e-6)
    assert found["test_loss"][0, 2] == pytest.approx(number(F.cross_entropy(b(X[:9]), Y[:9])), rel=2e-6)
    with pytest.raises(LandscapeError, match=r"`l2` is -1.0, it must be at least 0 and finite"):
        Problem.from_model(a, (X, Y), "cross_entropy", l2=-1)


def test_a_penalty_is_added_once_to_a_sum() -> None:
    loss = nn.CrossEntropyLoss(reduction="sum")
    a, b = ends(flat)
    whole, parts = (Problem.from_model(flat, (X, Y), loss, l2=1.0, batch_size=size) for size in (None, 8))
    for verb in (lambda problem: landscape.walk(a, b, problem=problem, points=3)["loss"],):
        np.testing.assert_allclose(verb(parts), verb(whole), rtol=1e-6)
    found = [landscape.curvature(a, problem=each, top=2) for each in (whole, parts)]
    np.testing.assert_allclose(found[1].eigenvalues, found[0].eigenvalues, rtol=1e-9)
    penalty = float(sum(each.detach().square().sum() for each in a.parameters())) / 2
    assert found[0].loss[0] == pytest.approx(number(loss(a(X), Y)) + penalty, rel=1e-5)


def test_a_penalty_is_an_option_of_each_verb() -> None:
    a, b = ends(flat)
    c = flat()
    own, asked = (Problem.from_model(flat, (X, Y), "cross_entropy", l2=l2) for l2 in (0.3, 0.1))
    for verb in (
        lambda problem, l2: landscape.walk(a, b, problem=problem, points=3, l2=l2)["loss"],
        lambda problem, l2: landscape.plane(a, b, c, problem=problem, points=3, l2=l2)["loss"],
        lambda problem, l2: landscape.curvature(a, problem=problem, top=2, trace=True, l2=l2).eigenvalues,
        lambda problem, l2: landscape.connect(a, b, problem=problem, method="bezier", steps=3, points=3, l2=l2)["loss"],
    ):
        np.testing.assert_allclose(verb(asked, 0.2), verb(own, 0.0), rtol=1e-6)
    assert landscape.walk(a, b, problem=asked, points=3, l2=0.2).about["l2"] == pytest.approx(0.3)
    with pytest.raises(Unsupported, match='`l2` goes with the plain engine: leave `engine="stacked"` out'):
        landscape.walk(a, b, problem=asked, l2=0.2, engine="stacked")


def test_a_penalty_of_a_problem_by_name() -> None:
    found, without = (landscape.walk("presolve", rays=[0], problem="life", points=3, l2=l2) for l2 in (0.5, 0.0))
    norms = torch.stack([each.double().square().sum() for each in without.model_at(1.0).parameters()]).sum()
    assert found["loss"][0, -1] == pytest.approx(without["loss"][0, -1] + 0.25 * number(norms), rel=1e-6)


def test_a_loss_may_take_its_batch_apart() -> None:
    def popping(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        targets = batch.pop("labels")
        batch["x"] = batch["x"] * 2
        return F.cross_entropy(model(batch["x"]), targets)

    a, b = ends(flat)
    for data in ([{"x": X, "labels": Y}], {"x": X, "labels": Y}):
        problem = Problem.from_model(flat, data, batch_loss=popping)
        found = landscape.walk(a, b, problem=problem, points=3)["loss"][0]
        assert found[2] == pytest.approx(number(F.cross_entropy(b(2 * X), Y)), rel=2e-6)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_an_infinite_loss_is_infinite(engine: Any) -> None:
    a, b = ends(flat)
    problem = Problem.from_model(flat, (X, X.new_ones(COUNT, CLASSES) * 1e25), "mse")
    assert np.isposinf(landscape.walk(a, b, problem=problem, points=3, engine=engine)["loss"]).all()


class Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES)
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (Locked(), (X, Y), {}, "Locked cannot be copied"),
        (Locked, (X, Y), {}, "Locked cannot be copied"),
        (nn.Linear, (X, Y), {}, "does not run without arguments"),
        (flat, (X, Y), {"mode": "train"}, '`mode` is \'train\': choose "eval" or "as_is"'),
        (flat, (X, Y), {"weights": True}, "inputs and targets alone, and no weights"),
        (flat, DataLoader(TensorDataset(X, Y), batch_size=8), {"weights": True}, "and no weights"),
        (flat, DataLoader(TensorDataset(X, Y), batch_size=8), {"batch_size": 4}, "has batches of its own"),
        (flat, {"train": (X, Y), "test": (X, Y)}, {"test": (X, Y)}, "`data` has a `test` of its own"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_says_nothing_is_refused(model: Any, data: Any, options: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message) as caught:
        landscape.problems.model.from_model(model, data, "cross_entropy", **options)  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def test_arrays_that_run_backwards_are_data() -> None:
    problem = Problem.from_model(flat, (X.numpy()[::-1], Y.numpy()[::-1]), "cross_entropy")
    a, b = ends(flat)
    expected = number(F.cross_entropy(a(X), Y))
    assert landscape.walk(a, b, problem=problem, points=2)["loss"][0, 0] == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(("found", "message"), [(None, "of type NoneType"), ({"loss": {"a": 1}}, "of type dict")])
def test_what_a_batch_loss_may_not_give(found: Any, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        Problem.from_model(flat, (X, Y), batch_loss=lambda model, batch: found)
    weight: Any = {"batch_loss": lambda model, batch: model(batch[0]).sum(), "batch_weight": lambda batch: -1.0}
    with pytest.raises(LandscapeError, match="`batch_weight` gives -1 for a batch"):
        Problem.from_model(flat, (X, Y), **weight)


def test_targets_of_other_types_are_as_in_pytorch() -> None:
    a, b = ends(flat)
    problem = Problem.from_model(flat, (X, Y.to(torch.uint8)), "cross_entropy")
    expected = number(F.cross_entropy(a(X), Y))
    assert landscape.walk(a, b, problem=problem, points=2, engine="plain")["loss"][0, 0] == pytest.approx(expected)
    with pytest.raises(Mismatch, match="cannot read outputs"):
        Problem.from_model(flat, (X, Y.to(torch.int32)), "cross_entropy")
