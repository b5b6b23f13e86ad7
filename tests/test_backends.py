"""Which backend a problem is evaluated with: the fastest of those that agree with the plain module."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.core.errors import LandscapeError
from landscape.engine import backends
from landscape.engine.objective import Objective
from landscape.engine.stacked import Backend, Stacked
from landscape.problems.model import from_model

pytestmark = pytest.mark.measured

X, Y = torch.linspace(-1, 1, 80).view(20, 4), torch.arange(20) % 3


def chosen(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> str:
    """The backend of a small problem where evaluations take so long; those that may not be used are left out."""

    def measured(found: Mapping[Backend, Any], stack: Any) -> dict[Backend, float]:
        return {backend: seconds[backend] for backend in found}

    monkeypatch.setattr(backends, "_seconds", measured)
    problem = from_model(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (X, Y), "cross_entropy")
    return problem.objective().network.backend


def test_the_clearly_fastest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, stacked=1.0, vmap=2.0, loop=3.0) == "stacked"
    assert chosen(monkeypatch, stacked=3.0, vmap=2.0, loop=1.0) == "loop"
    assert chosen(monkeypatch, stacked=1.2, vmap=1.0, loop=9.0) == "stacked", "noise does not decide"
    assert chosen(monkeypatch, stacked=1.4, vmap=1.0, loop=9.0) == "vmap"


def test_one_that_disagrees_with_the_plain_module_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = Stacked.__call__

    def forward(self: Stacked, *arguments: Any, **options: Any) -> Tensor:
        return right(self, *arguments, **options) * (2 if self.backend == "stacked" else 1)

    monkeypatch.setattr(Stacked, "__call__", forward)
    with caplog.at_level(logging.INFO, "landscape"):
        assert chosen(monkeypatch, stacked=1.0, vmap=4.0, loop=4.0) == "vmap"
    assert "backend stacked gives other losses than the plain module: it is not used" in caplog.text
    assert "backend vmap for Sequential (a member on 20 samples: vmap " in caplog.text


def test_where_none_can_be_used_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective.plain
    monkeypatch.setattr(Objective, "plain", lambda self, stack: {"loss": right(self, stack)["loss"] + 1})
    with pytest.raises(LandscapeError, match="Sequential runs neither alone nor stacked: does it draw random numbers"):
        chosen(monkeypatch, stacked=1.0, vmap=1.0, loop=1.0)


def test_each_is_timed() -> None:
    objective = from_model(nn.Linear(4, 3), (X, Y), "cross_entropy").objective()
    assert objective.network.backend in ("stacked", "vmap", "loop")
    times = backends._seconds(
        {"stacked": objective, "loop": objective.with_backend("loop")}, objective.network.template
    )
    assert times.keys() == {"stacked", "loop"}
    assert all(0 < seconds < 60 for seconds in times.values())
