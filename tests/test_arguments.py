"""Arguments of another kind: one line that names them, before any work; numbers of NumPy's are numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape import LandscapeError, Problem, Result, Run, Training
from landscape.analysis.line_curvature import line_curvature

NAN = float("nan")
X = torch.linspace(-1, 1, 8)[:, None]
PROBLEM = Problem.from_model(lambda: nn.Linear(1, 1), (X, 2 * X + 1), "mse")
A, B, C = ({"weight": torch.tensor([[w]]), "bias": torch.tensor([b])} for w, b in ((0.0, 0.0), (2.0, 1.0), (1.0, -1.0)))

#: Where types of arguments are not checked at the door, as they are in other tests.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)


def walk(**given: Any) -> Result:
    return landscape.walk(A, **{"b": B, "problem": PROBLEM, "points": 3, **given})


def plane(*places: Any, **given: Any) -> Result:
    return landscape.plane(*(places or (A, B, C)), **{"problem": PROBLEM, "points": 2, **given})


def connect(**given: Any) -> Result:
    return landscape.connect(A, B, **{"problem": PROBLEM, "points": 3, "method": "bezier", "steps": 1, **given})


def curvature(**given: Any) -> Any:
    return landscape.curvature(A, **{"problem": PROBLEM, **given})


def train(**given: Any) -> Run:
    options = {"problem": "life", "training": {"batches": 1}, "output": "run", "seeds": range(2), **given}
    return landscape.train(options.pop("problem"), options.pop("training"), options.pop("output"), **options)


def report(**given: Any) -> Path:
    return landscape.report(walk(), **{"save": "page.html", **given})


def animate(**given: Any) -> Path:
    return landscape.animate(plane([A, B, C], directions=None), **{"save": "a.gif", **given})


EVERY = {
    "progress": [3, "x", [1]],
    "device": ["x", ["a"], "meta", np.array([1, 2])],
    "problem": [3, {}, nn.Linear(1, 1)],
}
WRITING = {"save": [3, b"x", NAN, "a.png", "a.SVG", "."], "overwrite": [3, "no", None]}
EVALUATING = {
    **EVERY,
    "dtype": ["float32", torch.int32],
    "engine": ["x", 3, []],
    "batchnorm": ["x", 3, []],
    "samples": ["x", 0, 1.5, [1]],
    "seed": ["x", -1, 1.5, None, 2**63],
}
WRONG: dict[Callable[..., Any], dict[str, list[Any]]] = {
    walk: {
        **EVALUATING,
        **WRITING,
        "span": [1, "0:1", (0,), (0, 1, 2), ("a", "b"), (NAN, 1), None, (0, None), (0, 1j), ([0], [1]), (1, 0)],
        "points": ["x", None, NAN, ["a"], {"a": 1}, [[0, 1]], [1j], object(), b"ab", 51.0, 1, True, 10**9],
        "rays": [3, "0:3", 1.5, [1.5], ["a"], [-1], [2**63], [True], [[1]], None, [None]],
        "via": [3, "a", None, {"a": 1}, nn.Linear(1, 1)],
        "only": [3, "a", [3], None, {"weight": 1}],
        **{name: [3, "x", ["a"], np.array([1, 2])] for name in ("normalise", "per", "hold", "pairs", "order")},
        "autocast": ["x", torch.float32],
        "certify": ["x", 0, 1, -1e-6, NAN, True],
        "certify_cells": ["x", 7, 1.5, None, True],
    },
    plane: {
        **EVALUATING,
        **WRITING,
        "x": [(0, 1, 2), (0,), "0:1", 1, ("a", "b"), (NAN, 1), (1, 0)],
        "points": ["x", (3,), (3, 4, 5), 3.5, (3.5, 4), None, ("3", "4"), (1, 5), 10**9],
        "directions": ["x", 3, ["a"]],
        "direction_seed": ["x", -1, 1.5, 2**70, None],
        "normalise": ["x", 3, None],
    },
    connect: {
        **EVALUATING,
        **WRITING,
        "method": ["x", 3, None],
        "budget": ["x", -1, 1.5, True, 399],
        **{name: ["x", -1, 1.5, True] for name in ("bends", "steps", "samples_per_step")},
        "training_seed": ["x", -1, 1.5, None, True],
        "lr": ["x", 0, NAN],
        "certify": ["x", 0, 1, NAN],
        "keep_seconds": ["x", -1, NAN, None, [1]],
        "points": [["a"], 10**9],
    },
    curvature: {
        **EVALUATING,
        **{name: ["x", -1, 1.5, None, True] for name in ("top", "count_to", "max_products", "probe_seed")},
        "rtol": ["x", 0, NAN, None],
        "tolerance": ["x", 0, NAN],
        "trace": ["no", 3, None],
        **{name: ["no", 3, None] for name in ("negative", "diagonal", "density")},
        **{name: ["x", 3] for name in ("matrix", "trace_per")},
        **{name: ["x", 1.5, None, True] for name in ("density_probes", "density_steps", "repeats")},
        "density_width": ["x", 0, NAN],
    },
    animate: {
        **WRITING,
        "fps": ["x", 0, -1, NAN, 51, True],
        "seconds": ["x", 0, -1, NAN, [1]],
        "caption": [3, b"x"],
        "style": ["paper", 3, None],
    },
    report: {
        **WRITING,
        "title": [3, [], b"x"],
        "problem": EVERY["problem"],
    },
    train: {
        **EVERY,
        "training": [3, "abc", []],
        "output": [3, [], NAN, b"x"],
        "seeds": [3, "abc", None, [1.5], ["a"], [-1], [True], {1: 2}],
        "data_seeds": [3, "abc", [1.5], ["a"], [-1]],
        "start": [3, nn.Linear(1, 1), {}],
        "logs": [3, "tensorboard", None],
        "engine": ["x", 3, []],
        "resume_every": ["x", -1, NAN, None],
        "overwrite": ["no", 3],
        "keep": ["no", 3],
    },
}


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, table in WRONG.items() for name in table])
def test_a_wrong_argument_is_one_line_that_names_it(verb: Callable[..., Any], name: str, tmp_path: Path) -> None:
    for wrong in WRONG[verb][name]:
        with pytest.raises(LandscapeError, match=rf"`{name}\b|^the range") as caught:
            verb(**{name: wrong})
        assert "\n" not in str(caught.value), wrong
    assert not list(tmp_path.iterdir()), "and nothing is written"


def test_numbers_of_numpy_are_numbers() -> None:
    two, ends = np.int64(2), np.array([-1.0, 2.0])
    assert walk(points=np.int64(11), span=ends, samples=np.int64(4), seed=two).loss.shape == (1, 13)
    assert len(landscape.walk(A, problem=PROBLEM, points=3, rays=np.arange(2))) == 2
    assert len(landscape.walk(A, problem=PROBLEM, points=3, rays=[two])) == 1
    assert plane(points=np.int64(3), x=ends).loss.shape == plane(points=np.array([3, 3]), x=(-1, 2)).loss.shape
    assert plane(A, direction_seed=two).about["plane"]["seed"] == 2
    curve = connect(
        method="bezier",
        steps=two,
        bends=two,
        points=np.int64(5),
        lr=np.float32(0.5),
        keep_seconds=np.float64(1),
        save="c.h5",
    )
    assert curve.about["curve"]["lr"] == 0.5
    assert curvature(top=two, trace=np.bool_(True), rtol=np.float64(0.1), probe_seed=two).trace is not None
    training = Training(batches=two, lr=np.float64(0.1), save_at=np.array([0, 2]), batch_size=torch.tensor(4))
    assert (training.batches, training.lr, training.save_at, training.batch_size) == (2, 0.1, (0, 2), 4)
    assert type(training.batches) is int
    assert train(training=training, seeds=np.arange(2), resume_every=np.float64(1)).steps() == [0, 2]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (((), {"line": 9}), r"on lines: write model_at(alpha)"),
        (((0.5, 0.5), {}), "on lines: write model_at(alpha)"),
        (((0.5,), {"line": 9}), "`line` is 9, it must be at least 0 and at most 0"),
        (((0.5,), {"line": -1}), "`line` is -1"),
        (((0.5,), {"line": "a"}), "`line` cannot be 'a'"),
        (((NAN,), {}), "`alpha` is nan, it must be finite"),
        ((("x",), {}), "`alpha` cannot be 'x'"),
        ((([0.5],), {}), "`alpha` cannot be [0.5]"),
        (((None,), {}), "`alpha` cannot be None"),
    ],
)
def test_there_is_no_network_at_a_place_that_is_none(place: Any, words: str) -> None:
    with pytest.raises(LandscapeError, match=re.escape(words)):
        walk().model_at(*place[0], **place[1])


def test_there_is_no_network_on_a_line_of_a_plane() -> None:
    surface = plane()
    for place, options, words in (
        ((0.5,), {}, r"on a plane: write model_at\(x, y\)"),
        ((0.5, 0.5), {"line": 3}, "on a plane"),
        ((0.5, NAN), {}, "`y` is nan, it must be finite"),
    ):
        with pytest.raises(LandscapeError, match=words):
            surface.model_at(*place, **options)
    assert isinstance(surface.model_at(np.float64(0.5), torch.tensor(0.5)), nn.Linear)
    assert isinstance(walk().model_at(0.5, line=np.int64(0)), nn.Linear)


def test_what_is_no_result_is_neither_read_nor_drawn() -> None:
    curves, surface = walk(), plane()
    ask: Any
    for ask, words in (
        (lambda: landscape.barriers(surface), "barriers are read off lines, not a plane: give"),
        (lambda: landscape.barriers("a.h5"), "barriers are read off lines, not str"),  # type: ignore[arg-type]
        (lambda: line_curvature(surface), "curvatures along a line are read off lines, not a plane"),
        (lambda: landscape.plot(3), "`result` is int: give what"),  # type: ignore[arg-type]
        (lambda: landscape.plot(curves, ax=3), "`ax` is int: give matplotlib axes"),  # type: ignore[arg-type]
        (
            lambda: landscape.plot(curves, smal_multiples=3),
            "there is no option 'smal_multiples' of the figure of a line",
        ),
        (lambda: curves[[]], r"the result has no '\[\]'"),  # type: ignore[index]
        (lambda: curves.save("a.png"), "a.png is called like a picture, and a result is HDF5: end `save` in .h5"),
        (lambda: curves.save(3), "`save` cannot be 3: it takes a text or a path"),  # type: ignore[arg-type]
        (lambda: Result.read(3), "`path` cannot be 3: it takes a text or a path"),  # type: ignore[arg-type]
        (lambda: Run.open(3), "`path` cannot be 3"),  # type: ignore[arg-type]
        (lambda: landscape.load(3), "`place` cannot be 3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(LandscapeError, match=words):
            ask()
    assert not list(Path().iterdir())
    assert landscape.plot(curves, ax=matplotlib.figure.Figure().add_subplot()) is not None


def test_paths_are_texts_or_paths() -> None:
    run = train()
    assert Run.open("run").document == Run.open(Path("run")).document == run.document
    assert len(landscape.load(Path("run")).stack) == len(landscape.load("run/@0").stack) == 2
    with pytest.raises(LandscapeError, match="`threshold` cannot be 'x': it takes a number"):
        landscape.clusters(run, threshold="x")  # type: ignore[arg-type]


def test_what_is_interrupted_at_its_end_is_finished(caplog: pytest.LogCaptureFixture) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    assert walk(progress=stop).done.all()
    assert not caplog.records
