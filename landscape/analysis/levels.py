"""What two members may be the same in: the levels of `clusters`. Nothing here needs torch: `--help` is quick."""

from typing import Literal, NamedTuple

__all__ = ["LEVELS", "By", "Level"]

By = Literal["predictions", "outputs", "parameters", "barrier"]


class Level(NamedTuple):
    """One meaning of the same: what the distance is, and up to which two members are the same."""

    distance: str
    threshold: float


LEVELS: dict[By, Level] = {
    "predictions": Level("share of all answers that differ", 0.0),
    "outputs": Level("root mean square difference of outputs", 0.05),
    "parameters": Level("distance of parameters, over the median norm", 0.05),
    "barrier": Level("barrier above the chord", 0.01),
}
