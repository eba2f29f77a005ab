"""The derivative of the loss by log tokens of several runs, before and after a change."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Real
from scipy.stats import kendalltau

from pipeline.aggregate.derivative import (
    BANDWIDTH,
    Curve,
    curve_of,
    over_sequences_error,
    residual_variances,
    slope_weights,
)
from pipeline.aggregate.variables import check_same_tokens, variable
from pipeline.errors import InputError

_GRID = 100  # places over which a derivative is averaged


def compare_derivatives(
    groups: Mapping[str, xr.Dataset],
    sizes: Mapping[str, float],
    step: float | tuple[float, float],
    bandwidth: float = BANDWIDTH,
) -> xr.Dataset:
    """Return the mean derivative of several runs before and after a change, and its order by size.

    groups: `token_loss` of runs on the same input. sizes: of each model, such as its parameters.
    step: of the change, or the steps at which the first run begins and the last one ends it, which
    leaves out what is between; all runs must have seen as many tokens there (InputError
    otherwise). The derivative of `loss_derivative` is averaged over 100 places, evenly spaced in
    log tokens, within the range that all runs have. `kendall_tau` is the rank correlation of size
    and derivative, with its exact p-value for few runs: with three runs none is below 0.3.
    `difference` is that of the largest models less the smallest ones, with the standard error of
    paired sequences and of the residuals. Both are NaN where all sizes are equal.
    """
    check_same_tokens(list(groups.values()))
    if len(groups) < 2:
        raise InputError(f"an order needs at least two runs, found {len(groups)}")
    if missing := sorted(groups.keys() - sizes.keys()):
        raise InputError(f"there is no size of {', '.join(missing)}")
    curves = {name: curve_of(group) for name, group in groups.items()}
    steps = step if isinstance(step, tuple) else (step, step)
    axis, sides = _sides(curves, steps)
    means = [[_mean(c, grid, bandwidth) for grid in sides.values()] for c in curves.values()]
    value = np.array([[one.value for one in row] for row in means])
    error = np.array([[one.error for one in row] for row in means])
    size = np.array([sizes[name] for name in groups])
    taus = [_order(size, value[:, side]) for side in range(2)]
    difference, paired = np.array([_extremes(size, [row[i] for row in means]) for i in (0, 1)]).T
    return xr.Dataset(
        {
            "derivative": variable(
                ("run", "side"), value, "nats", f"Mean derivative by the log of {axis}."
            ),
            "standard_error": variable(
                ("run", "side"), error, "nats", "Standard error, of sequences and residuals."
            ),
            "kendall_tau": variable(
                "side", [tau for tau, _ in taus], "1",
                "Rank correlation of size and mean derivative.",
            ),
            "kendall_p": variable("side", [p for _, p in taus], "1", "Its p-value."),
            "difference": variable(
                "side", difference, "nats",
                "Mean derivative of the largest models less that of the smallest.",
            ),
            "difference_error": variable(
                "side", paired, "nats", "Its standard error, of paired sequences and residuals."
            ),
        },
        {
            "run": list(groups),
            "size": ("run", [sizes[name] for name in groups]),
            "side": list(sides),
        },
        {"axis": axis, "step": list(steps), "bandwidth": bandwidth},
    )  # fmt: skip


def _sides(
    curves: Mapping[str, Curve], steps: tuple[float, float]
) -> tuple[str, dict[str, Float[np.ndarray, " place"]]]:
    """Return the axis, and the places before and after the steps that all runs have."""
    (axis, left), (_, right) = (_common(curves, one) for one in steps)
    start, end = (f(c.x[i] for c in curves.values()) for f, i in ((max, 0), (min, -1)))
    if not start < left <= right < end:
        shown = f"{steps[0]:g}" if steps[0] == steps[1] else f"{steps[0]:g} to {steps[1]:g}"
        raise InputError(f"step {shown} is not within the range that all runs have")
    sides = {"before": np.linspace(start, left, _GRID), "after": np.linspace(right, end, _GRID)}
    return axis, sides


class _Mean(NamedTuple):
    """A mean derivative. by_sequence: of each sequence alone."""

    value: float
    error: float
    by_sequence: Float[np.ndarray, " sequence"]
    residual: float


def _mean(curve: Curve, grid: Float[np.ndarray, " place"], bandwidth: float) -> _Mean:
    weights = slope_weights(curve.x, grid, bandwidth)[0].mean(axis=0)
    by_sequence = weights @ curve.loss
    residual = np.sqrt(weights**2 @ residual_variances(curve, bandwidth))
    over = over_sequences_error(by_sequence[None])[0]
    error = float(np.hypot(residual, np.nan_to_num(over)))
    return _Mean(float(by_sequence.mean()), error, by_sequence, float(residual))


def _order(size: Real[np.ndarray, " run"], value: Float[np.ndarray, " run"]) -> tuple[float, float]:
    """Return Kendall's tau and its p-value; NaN where sizes do not differ."""
    if not np.ptp(size):
        return np.nan, np.nan
    tau, p = np.asarray(kendalltau(size, value))
    return float(tau), float(p)


def _extremes(size: Real[np.ndarray, " run"], means: Sequence[_Mean]) -> tuple[float, float]:
    """Return how much larger the derivative of the largest models is, with its standard error."""
    if not np.ptp(size):
        return np.nan, np.nan
    ends = (size.min(), size.max())
    small, big = (
        _pooled([one for one, of in zip(means, size, strict=True) if of == end]) for end in ends
    )
    return _paired(small, big)


def _pooled(runs: Sequence[_Mean]) -> _Mean:
    """Return the mean of some runs, which share their sequences but not their residuals."""
    by_sequence = np.mean([one.by_sequence for one in runs], axis=0)
    residual = float(np.sqrt(np.sum([one.residual**2 for one in runs])) / len(runs))
    over = float(over_sequences_error(by_sequence[None])[0])
    error = float(np.hypot(residual, np.nan_to_num(over)))
    return _Mean(float(by_sequence.mean()), error, by_sequence, residual)


def _paired(small: _Mean, big: _Mean) -> tuple[float, float]:
    error = over_sequences_error((big.by_sequence - small.by_sequence)[None])[0]
    total = np.sqrt(np.nan_to_num(error) ** 2 + small.residual**2 + big.residual**2)
    return big.value - small.value, float(total)


def _common(curves: Mapping[str, Curve], step: float) -> tuple[str, float]:
    """Return the axis that all runs have, and the place of a step on it."""
    axes = {curve.axis for curve in curves.values()}
    if len(axes) > 1:
        raise InputError("tokens are known for some of the runs only: nothing can be compared")
    places = [np.interp(np.log(step), np.log(c.steps), c.x) for c in curves.values()]
    if np.ptp(places) > 0.01:
        raise InputError(f"at step {step:g} the runs have seen different numbers of tokens")
    return axes.pop(), float(np.mean(places))
