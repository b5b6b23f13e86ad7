"""Parts of a network by the names of its tensors."""

import pytest
import torch
from torch import nn

from landscape.core.errors import Mismatch
from landscape.engine.stack import Stack, aliases, template_of
from landscape.space.groups import matching, split


class Branches(nn.Module):
    """A parameter of its own, a tied one, and normalisation with and without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2))
        self.stem = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
        self.head = nn.Linear(3, 3)
        self.head.weight = self.body[0].weight


STACK = template_of(Branches())


def test_patterns_match_whole_names_and_take_the_buffers_along() -> None:
    assert matching(STACK, ["stem.0.*", "token"]) == {"stem.0.weight", "stem.0.bias", "token"}
    statistics = {f"stem.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert matching(STACK, ["stem.1.weight"]) == {"stem.1.weight", *statistics}
    assert matching(STACK, ["body.*"]) >= {"body.0.weight", "body.1.running_mean"}
    assert matching(STACK, ["head.weight"], aliases=aliases(Branches())) == {"body.0.weight"}


def test_a_pattern_that_matches_nothing_lists_what_there_is() -> None:
    with pytest.raises(Mismatch, match=r"'stem' matches no parameter: there are token, stem\.0\.weight, .*head\.bias$"):
        matching(STACK, ["token", "stem"])
    with pytest.raises(Mismatch, match=r"'body\.1\.\*' matches no parameter"):
        matching(STACK, ["body.1.*"])
    with pytest.raises(Mismatch, match=r"t23, and 76 more$"):
        matching(Stack({f"t{number}": torch.zeros(1) for number in range(100)}), ["x"])


def test_layers_and_modules_are_all_there_is() -> None:
    layers, modules = split(STACK, "layer"), split(STACK, "module")
    assert list(layers) == ["token", "stem.0", "stem.1", "body.0", "head"]
    assert list(modules) == ["token", "stem", "body", "head"]
    assert modules["stem"] == layers["stem.0"] | layers["stem.1"]
    assert modules["body"] == layers["body.0"] | {f"body.1.{name}" for name in ("running_mean", "running_var")} | {
        "body.1.num_batches_tracked"
    }
    for parts in (layers, modules):
        names = [name for part in parts.values() for name in part if name in STACK.tensors]
        assert sorted(names) == sorted(STACK.tensors)


def test_a_lone_module_gives_way_to_its_children() -> None:
    nested = template_of(nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))))
    assert list(split(nested, "module")) == ["0.0", "0.1"]
    assert list(split(nested, "layer")) == ["0.0", "0.1.0", "0.1.1"]
    assert list(split(template_of(nn.Sequential(nn.Linear(1, 1))), "module")) == ["0"]
