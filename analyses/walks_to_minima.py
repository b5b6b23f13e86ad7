"""What lies between the known solution and where training ended? The study's walk figures, on a verified solution.

Straight lines from the presolved weights of the activation in use (checked to solve the problem; the study walked to
weights that it had trained on for 1,000 batches and not checked) to each seed, for four combinations of steps and
width.
"""

from landscape import figures
from landscape.analysis.barriers import barriers
from study import Study

CASES = ((1, 1), (1, 5), (2, 1), (2, 5))
FULL = {"data": "batches", "batches": 10_000, "batch_size": 128, "lr": 1e-3}
QUICK = {"data": "batches", "batches": 2000, "batch_size": 32, "lr": 3e-3}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="2,000 batches of 32 boards at learning rate 3e-3: about half a minute on two cores",
        full="10,000 batches of 128 boards at 1e-3, as in the study: about 5 minutes on two cores or a GPU (estimate)",
    )
    training = QUICK if study.quick else FULL
    curves = []
    for n, m in CASES:
        done = study.sweep(part=f"{n}-{m}", grid={"steps": [n], "m_factor": [m]}, seeds=range(10), training=training)
        curves.append(study.walk("presolve", str(done.cells()[0].path), f"steps{n}-m{m}"))
    how = "{batches:,} batches of {batch_size} boards of 10 x 10, Adam at {lr:g}".format(**training)
    caption = (
        "Life B3/S23V, LeakyReLU, sigmoid; 10 seeds each, trained on "
        + how
        + ". Loss (exact for 1 step; on 1,000 boards "
        "for 2) on straight lines from the presolved weights (star; design hat, verified) to each seed (dot), 51 "
        "points, over the L1 distance from the presolved weights. Solved: the end gets every pattern, or every one "
        "of these boards, right. Right: barrier above the chord, with its median and the median's interval, "
        "all of them with 95 % at once."
    )
    study.draw(figures.walk_figure(curves, x="l1", caption=caption))
    found = {
        f"{n} steps, m = {m}": {
            "solved": int(each.values["solved"][:, -1].sum()),
            "end_loss": each.loss[:, -1],
            "l1": each["l1"],
            "barriers": barriers(each).summary(),
        }
        for (n, m), each in zip(CASES, curves, strict=True)
    }
    study.keep({"cases": found, "training": training})
    study.done("solved: " + ", ".join(f"{case}: {each['solved']} of 10" for case, each in found.items()))


if __name__ == "__main__":
    main()
