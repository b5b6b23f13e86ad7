"""Sentences of captions about how the numbers in a figure were computed."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["computed"]


def computed(files: Sequence[Mapping[str, Any]], *, between: str = "the ends", start: str = "the start") -> str:
    """By which statistics BatchNorm normalised, and whether in fewer digits than usual; empty where there is nothing
    to say. `files` are the attributes of what is drawn; `between` and `start` are what its networks are called.
    """
    told = [sentence for each in files for sentence in (_statistics(each, between, start), _autocast(each)) if sentence]
    return " ".join(dict.fromkeys(told))


def _statistics(attributes: Mapping[str, Any], between: str, start: str) -> str:
    policy: Mapping[str, Any] = attributes.get("batchnorm") or {}
    how = {
        "recalibrate": f"estimated anew at each point on {policy.get('samples', 0):,} training samples",
        "interpolate": f"interpolated between {between}",
        "keep": f"kept as at {start}: only there the loss is the network's own",
    }.get(policy.get("policy", ""))
    return f"Statistics of BatchNorm {how}." if how else ""


def _autocast(attributes: Mapping[str, Any]) -> str:
    kind = attributes.get("autocast")
    return f"The network ran in {kind}." if kind else ""
