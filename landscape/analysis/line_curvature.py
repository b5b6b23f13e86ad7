"""How is the loss bent along a line? Its second derivative, read off the points of the curve."""

import dataclasses

import numpy as np
from jaxtyping import Float

from landscape.core.errors import LandscapeError, Unsupported
from landscape.store.results import Result, require_lines

__all__ = ["DEFINITION", "LineCurvature", "line_curvature"]

DEFINITION = "second derivative of the loss by the distance along the line, u'Hu for its unit direction u"

#: Relative rounding error of a loss, by the precision that the curves say they were computed in.
_ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclasses.dataclass(frozen=True, eq=False)
class LineCurvature:
    """Of each line, at each point but the first and the last of the grid, in units of loss per squared L2 distance.

    `values` are second differences over neighbouring points; u'Hu, the Hessian's form in the unit direction of the
    line, is their limit. `discretisation` estimates what the width of the steps does: the distance to the derivative of
    the quartic through two points on either side, on an even grid Richardson's extrapolation from steps h and 2h (L. F.
    Richardson, Phil. Trans. A 210, 1911); NaN at points that have only one on a side. It is too small where the loss
    bends within a step, as at the kinks of ReLU networks. `rounding` is what one rounding error of the curves'
    precision in each loss can do. `se` is the standard error over samples, None if the loss is exact, as if every point
    had samples of its own: all points see the same, so that it is usually smaller. All are NaN where a loss is not
    finite or the line has no length.
    """

    alpha: Float[np.ndarray, " interior"]
    values: Float[np.ndarray, "line interior"]
    discretisation: Float[np.ndarray, "line interior"]
    rounding: Float[np.ndarray, "line interior"]
    se: Float[np.ndarray, "line interior"] | None

    def __len__(self) -> int:
        return len(self.values)


def line_curvature(curves: Result) -> LineCurvature:
    """Curvature along the finished lines of `curves`, in their order, on grids even or uneven.

    The ends of the lines are among the points where the walk went beyond them (`span`). Raises `LandscapeError` if
    no line is finished, or if a grid has fewer than three points, `Unsupported` for paths that bend: their points'
    distances are not those of alpha, and at a corner there is no curvature.
    """
    require_lines(curves, "curvatures along a line")
    if curves.kind in ("curve", "arc") or "via_member" in curves.columns:
        raise Unsupported("the curvature along a path that bends cannot be read off its losses: walk straight lines")
    alpha = curves.alpha
    if len(alpha) < 3:
        raise LandscapeError(f"{len(alpha)} points a line show no curvature: walk again with `points=3` or more")
    loss, length = curves.loss[curves.done], curves["l2"][curves.done]
    loss = np.where(np.isfinite(loss), loss, np.nan)
    # From alpha to distance: the second derivative scales with the squared length.
    per_square = np.where(length > 0, 1 / np.where(length > 0, length, 1) ** 2, np.nan)[:, None]
    near = _second_derivative_weights(alpha, 1)
    values = _apply(near, loss)
    finer = np.full(values.shape, np.nan)
    if len(alpha) >= 5:
        finer[:, 1:-1] = _apply(_second_derivative_weights(alpha, 2), loss)
    unit = _ROUNDING.get(curves.about.get("dtype", "float32"), _ROUNDING["float32"])
    errors = curves.values.get("loss_se")
    return LineCurvature(
        alpha=alpha[1:-1],
        values=values * per_square,
        discretisation=np.abs(finer - values) * per_square,
        rounding=unit * _apply(np.abs(near), np.abs(loss)) * per_square,
        se=None if errors is None else np.sqrt(_apply(near**2, errors[curves.done] ** 2)) * per_square,
    )


def _second_derivative_weights(x: Float[np.ndarray, " point"], reach: int) -> Float[np.ndarray, "interior neighbour"]:
    """Weights of the values at 2 `reach` + 1 neighbouring points whose sum is the second derivative, in the middle one,
    of the polynomial through them.
    """
    windows = np.lib.stride_tricks.sliding_window_view(x, 2 * reach + 1)
    offsets = windows - windows[:, [reach]]
    step = np.abs(offsets).max(axis=1, keepdims=True)  # scaled to -1 ... 1, so that the powers stay comparable
    powers = (offsets / step)[:, None, :] ** np.arange(2 * reach + 1)[:, None]
    second = np.zeros((2 * reach + 1, 1))
    second[2] = 2
    weights: np.ndarray = np.linalg.solve(powers, second)[..., 0] / step**2
    return weights


def _apply(
    weights: Float[np.ndarray, "interior neighbour"], values: Float[np.ndarray, "line point"]
) -> Float[np.ndarray, "line interior"]:
    windows = np.lib.stride_tricks.sliding_window_view(values, weights.shape[1], axis=1)
    sums: np.ndarray = np.einsum("in,lin->li", weights, windows)
    return sums
