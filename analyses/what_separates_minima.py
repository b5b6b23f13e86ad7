"""What separates the minima of the smallest network, and what do its failures compute instead?

For both rules, of the reference runs: the limits of the failures' losses beside bounds of their cells of parameter
space, and which signatures of two members tell whether a straight line without a barrier connects them, found on even
seeds and tested on odd ones.
"""

from landscape import Run, figures
from landscape.analysis.mechanism import mechanism
from study import Study

RULES = ("B3/S23V", "B3/S23")
PANELS = 2  # populations of each rule that are drawn: the solved ones, and the commonest failure


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="the first 200 seeds, 20 members of a half: about a minute on two cores",
        full="1,000 seeds, 100 members of a half: about ten minutes on two cores",
        cells=False,
    )
    seeds, members = (200, 20) if study.quick else (1000, 100)
    found, panels, said = {}, [], []
    for rule in RULES:
        whole = Run.open(f"checkpoints/one-step-m1-{rule.replace('/', '')}").checkpoint()
        some = whole.select(range(seeds))
        found[rule] = mechanism(some, members=members, progress=lambda what: study.progress(what, "done"))
        each = found[rule].populations
        tables = [figures.BarrierTable(part.pairs.high, part.signature, part.best) for part in each]
        titles = [f"{rule}, {part.name.partition(',')[0]}" for part in each]
        panels += list(zip(titles, tables, strict=True))[1 : 1 + PANELS]
        said += [f"{rule}, {part.name}: {part.best}, {part.exceptions} exceptions of {part.decided}" for part in each]
    study.keep({"seeds": seeds, "members": members, "rules": {rule: each.summary() for rule, each in found.items()}})
    caption = (
        f"Life, one step, 25 parameters, {seeds} seeds a rule after 100,000 steps, of which up to {members} with odd "
        "seeds are shown. Upper bounds of the height above the higher end at every point of the straight lines between "
        "balanced representatives, in the better order of filters. Framed: the same signature, the one that told "
        "connected pairs best on even seeds. Right: of 512 patterns."
    )
    study.draw(figures.mechanism_figure(panels, caption=caption))
    study.done("; ".join(said))


if __name__ == "__main__":
    main()
