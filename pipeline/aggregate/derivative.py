"""The derivative of the mean loss by the log of tokens seen: how much a percent more would help.

Local lines are fitted with Gaussian weights in log tokens. The bandwidth matters more than any
error: a wide one lowers the peak of a sudden change. So the result has half and double as well.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int, Real
from scipy.ndimage import uniform_filter1d
from scipy.stats import norm

from pipeline.aggregate.blocks import in_order, over_sequences, padding
from pipeline.aggregate.variables import variable
from pipeline.errors import InputError

VERSION = 1  # another where the same losses give other numbers
BANDWIDTH = 0.08  # e-folds of tokens
_LEAST = 5  # checkpoints within one bandwidth
_NEAR = 11  # checkpoints over which squared residuals are averaged
_TAIL = norm.ppf(0.95)  # of intervals of 90%


class Curve(NamedTuple):
    """Mean losses of sequences over log tokens. axis: "tokens" or "steps"."""

    steps: Real[np.ndarray, " step"]
    x: Float[np.ndarray, " step"]
    loss: Float[np.ndarray, "step sequence"]
    axis: str
    left_out: list[int]


def loss_derivative(group: xr.Dataset, bandwidth: float = BANDWIDTH) -> xr.Dataset:
    """Return d mean loss / d ln tokens at each checkpoint, in nats per e-fold, with intervals.

    group: `token_loss`. By ln steps where tokens are unknown: `attrs["axis"]` says which. At each
    checkpoint a line is fitted to the mean losses by least squares, with weights
    exp(-(d / h)^2 / 2) of the distance d in ln tokens; h is the bandwidth, widened where fewer than
    5 checkpoints lie within it (`bandwidth_used`). Dims: bandwidth (half, once and double) and
    step. `low` and `high` bound a 90% interval from two independent errors: of the residuals
    between checkpoints (their squares averaged over 11 neighbours), and of the sequences (the
    standard deviation of the sequences' own derivatives over sqrt(n), which a bootstrap over
    sequences approximates). They do not contain the bias of a wide bandwidth: compare the three.
    Checkpoints at 0 tokens and with losses that are not finite are left out: `attrs["left_out"]`.
    Raises InputError for fewer than 5 others.
    """
    curve = curve_of(group)
    if len(curve.x) < _LEAST:
        raise InputError(f"a derivative needs at least {_LEAST} checkpoints, found {len(curve.x)}")
    bandwidths = [bandwidth / 2, bandwidth, 2 * bandwidth]
    fits = [_fitted(curve, curve.x, one) for one in bandwidths]
    values, residual, sequence, used = (np.stack(column) for column in zip(*fits, strict=True))
    error = np.sqrt(residual**2 + np.nan_to_num(sequence) ** 2)
    dims = ("bandwidth", "step")
    by = f"the log of {curve.axis}"
    return xr.Dataset(
        {
            "derivative": variable(
                dims, values, "nats", f"Derivative of the mean loss with respect to {by}."
            ),
            "low": variable(dims, values - _TAIL * error, "nats", "Low end of the 90% interval."),
            "high": variable(dims, values + _TAIL * error, "nats", "High end of it."),
            "residual_error": variable(
                dims, residual, "nats", "Standard error from the residuals between checkpoints."
            ),
            "sequence_error": variable(
                dims, sequence, "nats", "Standard error over sequences; NaN for a single one."
            ),
            "bandwidth_used": variable(dims, used, "1", f"Bandwidth in {by}, widened if need be."),
            "log_axis": variable("step", curve.x, "1", f"Natural logarithm of {curve.axis}."),
        },
        {"bandwidth": bandwidths, "step": curve.steps},
        {"axis": curve.axis, "left_out": curve.left_out, "sequences": curve.loss.shape[1]},
    )


def curve_of(group: xr.Dataset) -> Curve:
    """Return the mean loss of each sequence at each checkpoint that can be used."""
    loss = in_order(group["loss"].transpose("step", "sequence", "position"))
    steps = loss["step"].values
    seen, axis = steps.astype(np.float64), "steps"
    if "tokens_seen" in loss.coords and np.isfinite(loss["tokens_seen"].values).all():
        seen, axis = loss["tokens_seen"].values.astype(np.float64), "tokens"
    means = sequence_means(loss)
    kept = (seen > 0) & np.isfinite(means).any(axis=1)
    means = means[:, np.isfinite(means[kept]).any(axis=0)]  # sequences of padding
    kept &= np.isfinite(means).all(axis=1)
    left_out = [int(step) for step in steps[~kept]]
    return Curve(steps[kept], np.log(seen[kept]), means[kept], axis, left_out)


def sequence_means(loss: xr.DataArray) -> Float[np.ndarray, "step sequence"]:
    """Return the mean loss of each sequence, weighted so that their mean is that of all tokens.

    NaN for sequences of padding alone.
    """
    sums, counts = zip(*over_sequences(_summed, loss), strict=True)
    count = np.concatenate(counts)
    typical = count[count > 0].mean() if count.any() else 1.0
    return np.where(count > 0, np.concatenate(sums, axis=1) / typical, np.nan)


def _summed(
    block: Float[np.ndarray, "step sequence position"],
) -> tuple[Float[np.ndarray, "step sequence"], Int[np.ndarray, " sequence"]]:
    undefined = padding(block)
    values = block.sum(axis=2, dtype=np.float64, where=~undefined)
    return values, (~undefined).sum(axis=1)


def slope_weights(
    x: Float[np.ndarray, " step"], at: Float[np.ndarray, " place"], bandwidth: float
) -> tuple[Float[np.ndarray, "place step"], Float[np.ndarray, " place"]]:
    """Return the weights whose products with values are the slopes of local lines; bandwidths."""
    distance = x[None, :] - at[:, None]
    nearest = np.sort(np.abs(distance), axis=1)[:, _LEAST - 1]
    used = np.maximum(bandwidth, nearest)
    weights = np.exp(-((distance / used[:, None]) ** 2) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centred = distance - (weights * distance).sum(axis=1, keepdims=True)
    moments = weights * centred
    return moments / (moments * centred).sum(axis=1, keepdims=True), used


def residual_variances(curve: Curve, bandwidth: float) -> Float[np.ndarray, " step"]:
    """Return the variance of mean losses around the local lines near each checkpoint."""
    smoother = _levels(curve.x, bandwidth)
    mean = curve.loss.mean(axis=1)
    # The variance of a residual is 1 - S_ii times that of the noise, up to what neighbours add.
    squares = (mean - smoother @ mean) ** 2 / np.maximum(1 - np.diag(smoother), 0.05)
    return uniform_filter1d(squares, min(_NEAR, len(squares)), mode="nearest")


def _levels(x: Float[np.ndarray, " step"], bandwidth: float) -> Float[np.ndarray, "step step"]:
    """Return the weights whose products with values are the values of the local lines."""
    distance = x[None, :] - x[:, None]
    slopes, used = slope_weights(x, x, bandwidth)
    weights = np.exp(-((distance / used[:, None]) ** 2) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights - (weights * distance).sum(axis=1, keepdims=True) * slopes


def _fitted(
    curve: Curve, at: Float[np.ndarray, " place"], bandwidth: float
) -> tuple[np.ndarray, ...]:
    """Return derivatives, their two standard errors, and the bandwidths used."""
    weights, used = slope_weights(curve.x, at, bandwidth)
    by_sequence = weights @ curve.loss
    residual = np.sqrt(weights**2 @ residual_variances(curve, bandwidth))
    return by_sequence.mean(axis=1), residual, over_sequences_error(by_sequence), used


def over_sequences_error(
    values: Float[np.ndarray, "place sequence"],
) -> Float[np.ndarray, " place"]:
    """Return standard errors of means over sequences; NaN for fewer than two."""
    count = values.shape[1]
    if count < 2:
        return np.full(len(values), np.nan)
    return values.std(axis=1, ddof=1) / np.sqrt(count)
