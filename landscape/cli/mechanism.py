"""`landscape analyse mechanism RUN`: what failures compute, and which features decide connectivity."""

from typing import Any

import click

from landscape.analysis.levels import LEVELS
from landscape.cli.options import Report, chosen_problem, problem_choice, reporting
from landscape.cli.terminal import Progress, remark_unfinished, table
from landscape.cli.types import taken, together
from landscape.core.errors import plural

__all__ = ["conditions", "mechanism", "progress"]

#: Functions and limits that are shown, at most; limits have so many members at least, or are the commonest.
_MOST, _FEWEST_MEMBERS = 8, 10

#: Cases that are named, and counterexamples of the best signature.
_CASES, _AGAINST = 3, 6


#: `--members` and `--threshold`.
conditions = together(
    click.option(
        "--members",
        type=click.IntRange(min=20),
        default=50,
        help="Members of each half of the seeds between which lines are bounded, at most: of all, and of each function "
        "that has 20 in both halves.",
    ),
    click.option(
        "--threshold",
        type=click.FloatRange(min=0, min_open=True),
        default=LEVELS["barrier"].threshold,
        help="Two members are connected if the straight line rises by no more than this above its higher end.",
    ),
)


@click.command("mechanism")
@click.argument("place", metavar="RUN")
@conditions
@problem_choice
@reporting()
def mechanism(place: str, problem: str | None, options: tuple[str, ...], **settings: Any) -> None:
    """What do failures of RUN compute, and which features of two members decide whether a line connects them?

    For Life with one step and m = 1 (relu or leaky_relu, a sigmoid, bce). Members that fail are taken to their limits,
    as `landscape polish` does. Of each function at the limit it is told which cases are wrong, and which threshold of
    centre and neighbours, of cells, or of two rectified sums it is, checked on all 512 patterns. Of each limit: the
    bound from below on all networks with the same signs and active rectifiers (a sum of weights times entropies; the
    limit is explained if it is within 5e-7), the same sum if patterns stayed pooled on the levels of its outputs and
    these went where they like, and the cases that most of the bound comes from.

    What two members have in common (a signature) is compared with whether the line between them rises by no more than
    the threshold, bounded at every point, between balanced representatives in the better order of filters: by its
    correlation (phi) on even seeds, and by shares on odd ones. Intervals hold for all signatures together, and respect
    that pairs share members. Counterexamples are of the signature with the highest phi. About two minutes for 1,000
    members.
    """
    from landscape.analysis.mechanism import SIGNATURES
    from landscape.analysis.mechanism import mechanism as found_in

    report = taken(Report, settings)
    remark_unfinished(place)
    found = found_in(
        place,
        problem=chosen_problem(problem, options),
        progress=progress,
        **settings,
    )
    wrong = sum(each.members for each in found.mistakes)
    text = [
        f"{found.title}: {plural(found.members, 'member')}"
        + ("" if found.step is None else f" after {found.step:,} steps")
        + f", solved by {found.solved}; at the limits of the others' losses {found.later} more are solved, {wrong} not"
    ]
    if found.mistakes:
        text += _mistakes(found)
    for population in found.populations:
        text += _population(population, found)
    text += [f"{name}: {words}" for name, words in SIGNATURES.items()]
    text += [
        f"every path on which the last weight changes its sign rises to {found.constant:.6f} at least, the lowest loss "
        "of a network with one answer; no pass between members with lower losses is higher, since all may change there",
        f"every path on which a weight behind a filter changes its sign rises to {found.one_filter:.6f} at least, a "
        "bound for networks with one filter",
    ]
    report.show(text, {"place": place, **found.document()})


def progress(name: str) -> Progress:
    """That of a piece of the work."""
    return Progress(f"mechanism: {name}", "members" if name == "limits" else "lines")


def _mistakes(found: Any) -> list[str]:
    """What failures compute, and why their losses end where they do."""
    shown = found.mistakes[:_MOST]
    rows = [[number, each.members, each.right, each.computes.text] for number, each in enumerate(shown)]
    text = [table(["function", "members", "right of 512", "what it computes"], rows)]
    if rest := found.mistakes[len(shown) :]:
        text.append(f"and {plural(len(rest), 'more function')} with {sum(each.members for each in rest)} members")
    text += [
        f"function {number} is wrong at " + ", ".join(f"{name} ({k} of {n})" for name, k, n in each.wrong)
        for number, each in enumerate(shown)
    ]
    limits = [
        (number, limit)
        for number, each in enumerate(found.mistakes)
        for place, limit in enumerate(each.limits)
        if len(limit.members) >= _FEWEST_MEMBERS or (not place and number < 2)
    ]
    rows = [
        [
            number,
            f"{limit.value:.6f}",
            len(limit.members),
            "-" if limit.floor != limit.floor else f"{limit.floor:.7f}",
            "yes" if limit.explained else "no",
            limit.pieces,
            f"{limit.pooled:.6f}",
            ", ".join(f"{case} {share:.4f}" for case, share in limit.cases[:_CASES]),
            ", ".join(f"{count} {kind}" for kind, count in limit.kinds.items()),
        ]
        for number, limit in limits
    ]
    header = ["function", "limit", "members", "bound", "explained", "pieces", "pooled", "most of it from", "kinds"]
    every = [limit for each in found.mistakes for limit in each.limits]
    explained = sum(len(limit.members) for limit in every if limit.explained)
    text.append(table(header, rows))
    text.append(
        f"of {plural(len(every), 'limit')} {sum(limit.explained for limit in every)} are explained, those of "
        f"{explained} of {sum(each.members for each in found.mistakes)} members"
    )
    return text


def _interval(interval: tuple[float, float]) -> str | None:
    return None if interval[0] != interval[0] else "{:.3f} to {:.3f}".format(*interval)


def _population(found: Any, whole: Any) -> list[str]:
    """How well signatures tell connected pairs, on both halves."""
    rows = [
        [
            each.name,
            None if each.phi != each.phi else each.phi,
            each.same,
            _interval(each.same_interval),
            each.same_pairs,
            each.different,
            _interval(each.different_interval),
            each.different_pairs,
            each.exceptions,
        ]
        for each in found.tests
    ]
    header = ["same", "phi, even seeds", "connected if same", "95 % interval", "pairs"]
    header += ["connected if not", "95 % interval", "pairs", "exceptions"]
    gaps = any(value != value for each in found.tests for value in (each.phi, *each.same_interval))
    lacking = ["-: too few members, or too few unlike ones, to say; --members takes more"] if gaps else []
    best = next(each for each in found.tests if each.name == found.best)
    text = [
        f"{found.name}: signatures found on {found.found_on} members, tested on {len(found.pairs.members)}; connected "
        f"is a line that rises by {whole.threshold:g} at most; {plural(found.undecided, 'pair')} undecided",
        table(header, rows),
        *lacking,
        f"highest phi: {best.name}; {plural(best.exceptions, 'counterexample')} among odd seeds"
        + "".join(
            f"; {one} and {other} ({'same' if same else 'not the same'}, rise {low:.4g} to {high:.4g})"
            for one, other, same, low, high in best.against[:_AGAINST]
        ),
        f"connected components of the odd seeds: {', '.join(map(str, found.components))} members; {found.direct:.1%} "
        "of the pairs within one are connected directly",
    ]
    text.append(
        f"its members by signs and reach, {len(found.classes)} kinds (weight behind a filter, the neighbours it looks "
        "for; it leaks where it is not active on most of these): "
        + "; ".join(f"{count} {words}" for words, count in found.classes[:_MOST])
    )
    for what, rise in (
        ("last weights", found.crossing),
        ("weights behind filters, but not of last ones", found.losing),
    ):
        if rise == rise:
            text.append(f"lines between unlike signs of {what} rise to {rise:.6f} at least")
    return text
