"""`landscape info PATH`: what a file is, who made it, and how."""

from pathlib import Path
from typing import Any

import click

from landscape.cli.options import json_flag
from landscape.cli.terminal import say
from landscape.core.errors import LandscapeError, Untrusted, printable
from landscape.core.files import is_there, json_text

__all__ = ["command"]

_NO_DIGEST = "none, as it was written before documents had one: changes of it go unnoticed"


@click.command("info")
@click.argument("path", type=click.Path(path_type=Path))
@json_flag
def command(path: Path, print_json: bool) -> None:
    """What is PATH, who made it, and how? Reads runs, checkpoints, curves and surfaces, and checks their digests."""
    document = _describe(path)
    say(json_text(document) if print_json else "\n".join(_lines(document)))


def _describe(path: Path) -> dict[str, Any]:
    if not (path.exists() or path.is_symlink() or "::" in path.name):  # a key inside a file is told by reading it
        raise LandscapeError(f"{path} does not exist")
    if path.suffix in (".h5", ".hdf5"):
        return _result(path)
    if path.is_dir() and is_there(path / "sweep.json"):
        return _sweep(path)
    if path.is_dir() and is_there(path / "run.json"):
        return _run(path)
    return _checkpoint(path)


def _result(path: Path) -> dict[str, Any]:
    from landscape.store.results import Result

    result = Result.read(path)
    if result.kind == "plane":
        said: dict[str, Any] = {
            "kind": "surface over a plane",
            "points": f"{len(result['x'])} x {len(result['y'])}",
            **{name: f"{axis[0]:g} to {axis[-1]:g}" for name, axis in result.axes.items()},
            "marks": {mark.name: f"loss {mark.loss:g} at {mark.x:g}, {mark.y:g}" for mark in result.marks},
        }
    else:
        said = {
            "kind": "curves of a walk",
            "lines": len(result),
            "finished": int(result.done.sum()),
            "points": len(result.alpha),
            "alpha": f"{result.alpha[0]:g} to {result.alpha[-1]:g}",
        }
    return {**said, "variables": sorted(result.values), **result.about}


def _sweep(path: Path) -> dict[str, Any]:
    from landscape.training.sweep import Sweep

    sweep = Sweep.open(path)
    finished: int | str
    try:
        finished = sum(cell.finished for cell in sweep.cells())
    except Untrusted as error:
        finished = f"unknown: {error}"
    said = {"kind": "sweep", "cells": [cell.name for cell, _ in sweep.places()], "finished": finished}
    return {**said, "sha256": _NO_DIGEST, **sweep.document}


def _run(path: Path) -> dict[str, Any]:
    from landscape.store.checkpoints import Run

    run = Run.open(path)
    for step in run.steps():
        run.checkpoint(step)  # checks its digest
    state: dict[str, Any] = {"imported": run.imported}
    if run.imported is None:
        training = run.document["training"]
        state = {"finished": training.get("recorded") == "ended" or training.get("batches") in run.steps()}
    digest = run.document.get("sha256", _NO_DIGEST)
    said = {"kind": "run", **state, "members": len(run.seeds), "steps": run.steps()}
    return {**said, **run.document, "sha256": digest}


def _checkpoint(path: Path) -> dict[str, Any]:
    from landscape.store.checkpoints import load
    from landscape.store.formats import model_weights

    checkpoint = load(str(path))
    stack = checkpoint.stack
    problem = checkpoint.problem
    kind = "checkpoint"
    if path.is_dir():
        kind = "checkpoint in the Hugging Face layout" if model_weights(path) else "folder of checkpoints"
    return {
        "kind": kind,
        "members": len(stack),
        "parameters": stack.parameters,
        "tensors": {name: list(shape) for name, shape in stack.shapes.items()},
        "dtype": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stack.tensors.values()})),
        "step": checkpoint.sources[0].step,
        "problem": {"name": problem[0], "config": problem[1]} if problem else None,
        "sha256": sorted({source.digest for source in checkpoint.sources}),
    }


def _lines(document: dict[str, Any], indent: str = "") -> list[str]:
    """Nested entries as indented lines; long lists shortened."""
    lines = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{printable(key)}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{printable(key)}: {_shortened(value)}")
    return lines


def _shortened(value: Any) -> str:
    if not isinstance(value, list):
        return printable(str(value))
    texts = [printable(str(item)) for item in value]
    return " ".join(texts) if len(texts) <= 24 else f"{' '.join(texts[:4])} ... {texts[-1]} ({len(texts)})"
