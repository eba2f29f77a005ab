"""Two lines that meet, and a cubic, fitted to trajectories over their arc lengths."""

import numpy as np
from jaxtyping import Float, Integer

LEAST = 4  # checkpoints on each side of where lines meet

Walks = Float[np.ndarray, "walk checkpoint component"]


def arc_lengths(walks: Walks) -> Float[np.ndarray, "walk checkpoint"]:
    """Return the length of each walk up to each checkpoint, as a share of its whole length.

    NaN for a walk that does not move.
    """
    lengths = np.linalg.norm(np.diff(walks, axis=1), axis=2).cumsum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.pad(lengths / lengths[:, -1:], ((0, 0), (1, 0)))


def places(length: int) -> Integer[np.ndarray, " place"]:
    """Return the checkpoints at which the lines may meet, of so many."""
    return np.arange(LEAST, length - LEAST)


def fit_errors(
    x: Float[np.ndarray, "walk checkpoint"], walks: Walks
) -> tuple[Float[np.ndarray, " walk"], Float[np.ndarray, "walk place"]]:
    """Return the squared errors of a cubic in x, and of two lines that meet at each place.

    The two lines are 1, x and a hinge max(x - x[place], 0). With r what the straight line leaves,
    a hinge h explains (h r)^2 / |h less its part in 1 and x|^2 more than it, and sums from the end
    give both for all places at once.
    """
    basis = np.linalg.qr(x[:, :, None] ** np.arange(4))[0]
    centred = walks - walks.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=(1, 2))
    products = basis.transpose(0, 2, 1) @ centred
    straight = basis[:, :, :2]
    left = centred - straight @ products[:, :2]
    at = places(x.shape[1])
    rest = _hinged(x, straight)[:, at]
    powers = _hinged(x, np.stack([np.ones_like(x), x], axis=2))[:, at]
    sizes = powers[:, :, 1] - x[:, at] * powers[:, :, 0] - (rest**2).sum(axis=2)
    explained = (_hinged(x, left)[:, at] ** 2).sum(axis=2)
    # A hinge is 0 where nothing moves after its place.
    gains = np.divide(explained, sizes, out=np.zeros_like(sizes), where=sizes > 1e-9)
    # Rounding must not make the error of a perfect fit 0.
    floor = 1e-12 * total
    smooth = np.maximum(total - (products**2).sum(axis=(1, 2)), floor)
    return smooth, np.maximum((left**2).sum(axis=(1, 2))[:, None] - gains, floor[:, None])


def _hinged(
    x: Float[np.ndarray, "walk checkpoint"], series: Float[np.ndarray, "walk checkpoint column"]
) -> Float[np.ndarray, "walk checkpoint column"]:
    """Return the product of each series with the hinge at each checkpoint."""
    above, beside = (x[:, :, None] * series)[:, ::-1], series[:, ::-1]
    return above.cumsum(axis=1)[:, ::-1] - x[:, :, None] * beside.cumsum(axis=1)[:, ::-1]


def statistics(walks: Walks) -> tuple[Float[np.ndarray, " walk"], Integer[np.ndarray, " walk"]]:
    """Return ln(squared error of the cubic / of the best two lines), and where those meet."""
    smooth, lines = fit_errors(arc_lengths(walks), walks)
    return np.log(smooth / lines.min(axis=1)), places(walks.shape[1])[lines.argmin(axis=1)]


def lines_at(
    points: Float[np.ndarray, "checkpoint component"], place: int
) -> tuple[float, Float[np.ndarray, "checkpoint component"]]:
    """Return the angle between the two lines in degrees, and the residuals."""
    x = arc_lengths(points[None])[0]
    columns = np.stack([np.ones(len(x)), x, np.maximum(x - x[place], 0)], axis=1)
    found = np.linalg.lstsq(columns, points, rcond=None)[0]
    before, after = found[1], found[1] + found[2]
    lengths = np.linalg.norm(before) * np.linalg.norm(after)
    cosine = float(np.clip(before @ after / lengths, -1, 1)) if lengths else np.nan
    return float(np.degrees(np.arccos(cosine))), points - columns @ found
