"""`landscape validate`: does this installation reproduce what is known in closed form?"""

import logging
from typing import Any

import click
import torch

from landscape.analysis.validation import CHECKS, Check, Finding, validate
from landscape.cli.config import config_file
from landscape.cli.options import device_option, dtype_option, engine_option, json_flag
from landscape.cli.terminal import say, table
from landscape.core.errors import LandscapeError
from landscape.core.fields import did_you_mean
from landscape.core.files import json_text
from landscape.problems.compute import Compute, Engine

__all__ = ["command"]

_DTYPES = {"float32": (torch.float32,), "float64": (torch.float64,), "both": (torch.float32, torch.float64)}


@click.command(
    "validate",
    epilog="""\b
        Examples:
          landscape validate
          landscape validate --device cuda --engine vmap
          landscape validate --only linear-hessian --only stream --json""",
)
@device_option
@dtype_option("both", "both")
@engine_option("auto is what suits each network.")
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this check; repeatable.")
@json_flag
@config_file
def command(device: str, dtype: str, engine: Engine, names: tuple[str, ...], print_json: bool) -> None:
    """Is my plot right?

    Walks, gradients and Hessians of networks whose losses are known in closed form, computed as every walk is, on this
    machine. Errors are relative to the largest number expected; what is shown is the place of the largest error. Exit
    status 1 if a check fails.
    """
    chosen = _chosen(names)
    logging.getLogger("landscape").setLevel(logging.WARNING)  # which engine serves each small network is no news here
    findings = [
        finding
        for each in _DTYPES[dtype]
        for finding in validate(Compute(device=device, dtype=each, engine=engine), chosen)
    ]
    if print_json:
        say(json_text([_as_json(finding) for finding in findings]))
    else:
        say(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, engine {engine}")
        header = ["check", "type", "expected", "measured", "error", "tolerance", "", "what is known"]
        say(table(header, [_row(finding) for finding in findings]))
    if wrong := [finding for finding in findings if not finding.ok]:
        reasons = {finding.reason for finding in wrong if finding.reason}
        raise LandscapeError(
            f"{len(wrong)} of {len(findings)} checks fail ({', '.join(dict.fromkeys(one.check.name for one in wrong))})"
            f"{': ' if reasons else ''}{'; '.join(sorted(reasons))}. Do not trust walks in this setting: "
            "try another --engine or --device, and please report it"
        )


def _chosen(names: tuple[str, ...]) -> list[Check]:
    """The checks of these names, all without any."""
    every = {check.name: check for check in CHECKS}
    for name in names:
        if name not in every:
            raise LandscapeError(f"there is no check '{name}': {did_you_mean(name, every)}")
    return [every[name] for name in names or every]


def _type(finding: Finding) -> str:
    return str(finding.setting.dtype).removeprefix("torch.")


def _row(finding: Finding) -> list[Any]:
    numbers = [finding.expected, finding.measured, finding.error, finding.tolerance]
    verdict = "ok" if finding.ok else "FAIL"
    return [finding.check.name, _type(finding), *numbers, verdict, finding.reason or finding.check.claim]


def _as_json(finding: Finding) -> dict[str, Any]:
    numbers = {name: getattr(finding, name) for name in ("expected", "measured", "error", "tolerance")}
    setting = {"device": finding.setting.device, "dtype": _type(finding), "engine": finding.setting.engine}
    names = {"name": finding.check.name, "claim": finding.check.claim}
    return {**names, **setting, **numbers, "ok": finding.ok, "reason": finding.reason}
