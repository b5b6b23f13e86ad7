"""What somebody's checkpoint says of its network by its tensors and its file name: architecture, width and depth."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from landscape.core.errors import Mismatch
from landscape.problems.base import Renaming
from landscape.problems.life import network

__all__ = ["fields_of", "named_fields", "renaming"]

Shapes = Mapping[str, tuple[int, ...]]

#: Tensors that a message lists before it counts the rest.
_LISTED = 4

#: How the shapes depend on the width m, for messages.
_PATTERN = (
    "net.0.0.weight [2m, 1, 3, 3], net.0.2.weight [m, 2m, 1, 1] and net.0.4.weight [1, m, 1, 1], or out.weight "
    "[1, m, 1, 1] in the place of the last, with their biases"
)

#: Places of the second and third layer of a block behind the study's dropout, and their places without it.
_SHIFTED = (("3", "2"), ("5", "4"))

#: What the study's --normalize stood for, for the user; its dropout is that of the study's code, not of the tensors.
_NORMALIZED = (
    "{old} renamed to {new}: they are of the study's --normalize, where dropout shifted the names; it meant other "
    "initial parameters, dropout, always a sigmoid, and no shift of the input, so that normalize stays False"
)
_NORMALIZED_FIELDS = {"sigmoid": True, "normalize": False}
_DROPOUT = {"dropout": 0.4, "dropout_last": False}

#: File names of the study's code, now and earlier (bfirner/dnn_game_of_life): the only ones that are read.
_FILE_NAMES = (
    r"gol_model_(?:presolve_)?steps(?P<steps>\d+)_m(?P<m_factor>\d+)_d(?P<d_factor>\d+(?:\.\d+)?)_seed(?P<seed>\d+)\.pyt",
    r"gol_model_(?P<steps>\d+)_(?P<m_factor>\d+)_(?P<d_factor>\d+(?:\.\d+)?)_seed_(?P<seed>\d+)\.pyt",
)


def fields_of(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Life` that tensors, by name and shape of a member, give away beside the given ones.

    Raises `Mismatch`, saying what was expected and what is there, for tensors of another architecture or depth.
    """
    paper = "out.weight" in shapes
    indices = {int(match[1]) for name in shapes if (match := re.fullmatch(r"net\.(0|[1-9]\d*)\.0\.weight", name))}
    width = shapes.get("net.0.2.weight", ())
    if indices != set(range(len(indices))) or not indices or len(width) != 4 or width[0] < 1:
        raise Mismatch(_message(_PATTERN, _listed(shapes)))
    blocks, m_factor = len(indices), width[0]
    expected = _shapes(blocks, m_factor, paper=paper)
    if wrong := {name: shape for name, shape in expected.items() if shapes.get(name) != shape}:
        found = [f"{name} {list(shapes[name])}" if name in shapes else f"no {name}" for name in wrong]
        size = f"with {_count(blocks)} and m = {m_factor}"
        raise Mismatch(_message(f"{size} {_listed(wrong)}", _shortened(found)))
    if extra := {name: shape for name, shape in shapes.items() if name not in expected}:
        raise Mismatch(_message(f"{len(expected)} tensors, net.0.0.weight to {list(expected)[-1]}", _listed(extra)))
    return {"architecture": "paper" if paper else "study", "m_factor": m_factor, **_depth(blocks, given)}


def renaming(theirs: Collection[str], given: Mapping[str, Any]) -> Renaming:
    """Of names that the study's --normalize shifted; none unless all blocks but the last have them, and it not."""
    count = sum(bool(re.fullmatch(r"net\.\d+\.3\.weight", name)) for name in theirs)
    names = {
        f"net.{block}.{old}.{kind}": f"net.{block}.{new}.{kind}"
        for block in range(count)
        for old, new in _SHIFTED
        for kind in ("weight", "bias")
    }
    blocks = sum(bool(re.fullmatch(r"net\.\d+\.0\.weight", name)) for name in theirs)
    there = names.keys() <= set(theirs) and set(theirs).isdisjoint(names.values())
    if not names or not there or blocks != count + 1:
        return Renaming()
    old, new = (", ".join(f"net.0.{pair[place]}" for pair in _SHIFTED) for place in (0, 1))
    remark = _NORMALIZED.format(old=old, new=new + (" (and so in other blocks)" if count > 1 else ""))
    dropout = {} if "dropout" in given else {key: value for key, value in _DROPOUT.items() if key not in given}
    return Renaming(names, {**_NORMALIZED_FIELDS, **dropout}, remark)


def named_fields(file_name: str) -> dict[str, Any]:
    """Fields of `Life`, and the seed, that the name of one of the study's files says; nothing for other names."""
    for pattern in _FILE_NAMES:
        if match := re.fullmatch(pattern, file_name):
            return {key: float(text) if key == "d_factor" else int(text) for key, text in match.groupdict().items()}
    return {}


def _shapes(blocks: int, m: int, *, paper: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of a network of that size."""
    weights: dict[str, tuple[int, ...]] = {}
    for block in range(blocks):
        weights[f"net.{block}.0"] = (2 * m, m if paper and block else 1, 3, 3)
        weights[f"net.{block}.2"] = (m, 2 * m, 1, 1)
        if not paper:
            weights[f"net.{block}.4"] = (1, m, 1, 1)
    if paper:
        weights["out"] = (1, m, 1, 1)
    return {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def _depth(blocks: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Steps or depth factor, so that floor(steps d_factor) is the number of blocks."""
    steps, factor = given.get("steps"), given.get("d_factor")
    if steps is None:
        if factor not in (None, 1):
            raise Mismatch(
                f'{_count(blocks)} with d_factor={factor} do not say the steps: give `options={{"steps": "N"}}` as well'
            )
        return {"steps": blocks}
    if factor is None:
        if steps < 1:
            return {}  # which the problem refuses in its own words
        factor = blocks / steps
        # The quotient may be rounded down, and the floor of its product is then one too low; the next number is enough.
        return {"d_factor": factor if network.blocks(steps, factor) == blocks else math.nextafter(factor, math.inf)}
    if math.isfinite(factor) and network.blocks(steps, factor) != blocks:
        raise Mismatch(
            f"steps={steps} and d_factor={factor} make floor({steps} x {factor}) = {network.blocks(steps, factor)} "
            f"blocks, but the tensors have {blocks}: leave d_factor out"
        )
    return {}


def _message(expected: str, found: str) -> str:
    return f"a checkpoint whose architecture cannot be inferred: expected {expected}; found {found}"


def _count(blocks: int) -> str:
    return f"{blocks} block{'s' if blocks > 1 else ''}"


def _listed(shapes: Shapes) -> str:
    return _shortened([f"{name} {list(shape)}" for name, shape in shapes.items()])


def _shortened(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_LISTED]) + (f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "")
