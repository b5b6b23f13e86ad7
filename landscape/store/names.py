"""From the names of tensors as they are found to those of a network: prefixes, wrappers inside, adapters."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping

from landscape.core.errors import Mismatch, few
from landscape.engine.stack import Stack

__all__ = ["Naming", "naming"]

Shape = tuple[int, ...]

#: Components of names that wrappers put in, also in their midst, and peft: an adapter's name is not in its own file.
_WITHIN = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|modules_to_save|default)\.|\.default$"
)


@dataclasses.dataclass(frozen=True)
class Naming:
    """Which tensor found is which of the network's, and how their names differ, in words; empty if they do not."""

    own: Mapping[str, str]
    remark: str = ""


def naming(
    found: Mapping[str, Shape],
    network: Stack,
    aliases: Mapping[str, str],
    *,
    adapter: bool = False,
    free: Collection[str] = (),
) -> Naming | None:
    """The one way in which tensors of these names and shapes are all parameters of a network, or, of an `adapter`, in
    which the network has them all; None if there is none. Shapes of the `free` may differ.

    As they stand comes first, then with one prefix in place of another (either may be empty), then so without what
    wrappers put into names. Raises `Mismatch` for several ways.
    """
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in {**network.tensors, **network.buffers}.items()}
    ours = {name: name for name in shapes} | dict(aliases)
    for plain in (_as_is, _without_wrappers):
        mine, theirs = ({plain(name): name for name in names} for names in (ours, found))
        if len(mine) < len(ours) or len(theirs) < len(found):
            continue  # names are told apart by what would be left out
        wanted: dict[str, list[str]] = {name: [] for name in network.tensors}
        for each, name in ours.items():
            if name in wanted:
                wanted[name].append(plain(each))
        fits: dict[tuple[str, str], dict[str, str]] = {}
        for drop, add in _ways(theirs, mine, next(iter(wanted.values())), adapter=adapter):
            if adapter and not all(_swapped(name, drop, add) in mine for name in theirs):
                continue
            needed = [names for name, names in wanted.items() if not adapter or "default" in name.split(".")]
            if not all(any(_swapped(name, add, drop) in theirs for name in names) for names in needed):
                continue
            fits[drop, add] = {theirs[n]: mine[own] for n in theirs if (own := _swapped(n, drop, add)) in mine}
            if not (drop or add):
                break
        right = {
            way: taken
            for way, taken in fits.items()
            if all(found[name] == shapes[ours[own]] or ours[own] in free for name, own in taken.items())
        }
        fits = right or fits
        if len(fits) > 1 and ("", "") not in fits:
            under = [drop or f"{add} put before" for drop, add in fits]
            key = under[0].partition(" ")[0].rstrip(".")
            raise Mismatch(
                f"its tensors fit the network in several ways, under {few(under)}: choose one, such as PATH::{key}"
            )
        for (drop, add), taken in fits.items():
            return Naming(taken, _remark(drop, add, found, taken))
    return None


def _swapped(name: str, one: str, other: str) -> str | None:
    """A name with one prefix in place of another; None if it does not begin with it."""
    return other + name.removeprefix(one) if name.startswith(one) else None


def _ways(
    theirs: Collection[str], mine: Collection[str], first: Collection[str], *, adapter: bool
) -> Iterator[tuple[str, str]]:
    """Prefixes that may be in place of each other: what is before the common end of a name found and one wanted."""
    pairs = [(next(iter(theirs)), name) for name in mine] if adapter else [(n, own) for n in theirs for own in first]
    yield from dict.fromkeys([("", ""), *(way for pair in pairs if (way := _before(*pair)) is not None)])


def _before(one: str, other: str) -> tuple[str, str] | None:
    """What stands before the longest common end of two names, in whole components; None if their last ones differ.

    >>> _before("model.net.weight", "inner.net.weight")
    ('model.', 'inner.')
    """
    a, b = one.split("."), other.split(".")
    common = 0
    while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
        common += 1
    ends = (".".join([*pieces[: len(pieces) - common], ""]) for pieces in (a, b))
    return (next(ends), next(ends)) if common else None


def _as_is(name: str) -> str:
    return name


def _without_wrappers(name: str) -> str:
    """A name without what wrappers put into it.

    >>> _without_wrappers("q.lora_A.default.weight"), _without_wrappers("module.net._orig_mod.0.bias")
    ('q.lora_A.weight', 'net.0.bias')
    """
    return _WITHIN.sub("", name) or name


def _remark(drop: str, add: str, found: Collection[str], taken: Mapping[str, str]) -> str:
    every = "all names" if len(taken) == len(found) else f"{len(taken)} names"
    if drop and not add:
        return f"{every} begin with {drop} and fit the network without it"
    if add:
        return f"{every} fit the network with {add} " + (f"in place of {drop}" if drop else "before them")
    changed = [f"{name} as {own}" for name, own in taken.items() if name != own]
    return f"names are read without what wrappers put into them: {few(changed, 2)}" if changed else ""
