"""Rates of change over log steps, and how much two of them overlap beyond chance."""

import numpy as np
from jaxtyping import Float, Integer
from scipy.ndimage import gaussian_filter1d

from pipeline.aggregate.log_axis import log_steps, make_axis, without_spikes

POINTS = 256  # of the axis that two series share
SMOOTHING = 0.04  # decades: the standard deviation of the Gaussian that takes the derivative


def shared_axis(
    first: Integer[np.ndarray, " step"], second: Integer[np.ndarray, " other"]
) -> Float[np.ndarray, " point"]:
    """Return evenly spaced log10 steps over the range that two schedules share."""
    ends = [(x[0], x[-1]) for x in (log_steps(np.sort(one)) for one in (first, second))]
    low, high = max(a for a, _ in ends), min(b for _, b in ends)
    return np.linspace(low, high, POINTS)


def rate_of_change(
    steps: Integer[np.ndarray, " step"],
    values: Float[np.ndarray, " step"],
    x: Float[np.ndarray, " point"],
) -> Float[np.ndarray, " point"]:
    """Return d values / d log10 step at evenly spaced log10 steps, without spikes.

    Derivative of a Gaussian of 0.04 decades. Values that are not finite are interpolated.
    """
    order = np.argsort(steps)
    steps, values = steps[order], values[order].astype(np.float64)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    axis = make_axis(steps)
    cleaned = axis.binned(without_spikes(steps, values[None])[0][0])
    spacing = x[1] - x[0]
    # Nearest: beyond its ends a series is taken to stay where it is.
    return (
        gaussian_filter1d(
            np.interp(x, axis.x, cleaned), SMOOTHING / spacing, order=1, mode="nearest"
        )
        / spacing
    )


def overlap_nulls(
    first: Float[np.ndarray, " point"],
    second: Float[np.ndarray, " point"],
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the overlap of two rates of change, and its p-values under two nulls.

    Overlap: the sum of the lower one of both absolute rates, each scaled to a sum of 1. Nulls: all
    circular shifts of the second; and second series with the same power spectrum and random phases
    (Theiler et al. 1992). NaN for a series that does not change.
    """
    if not np.any(first) or not np.any(second):
        return np.nan, np.nan, np.nan
    found = float(_overlaps(first, second[None])[0])
    places = (np.arange(len(second)) - np.arange(1, len(second))[:, None]) % len(second)
    shifted = _overlaps(first, second[places])
    random = _overlaps(first, _phase_randomised(second, draws, rng))
    p_shift, p_phase = (
        float((1 + (null >= found - 1e-12).sum()) / (1 + len(null))) for null in (shifted, random)
    )
    return found, p_shift, p_phase


def _overlaps(
    first: Float[np.ndarray, " point"], others: Float[np.ndarray, "draw point"]
) -> Float[np.ndarray, " draw"]:
    mine, theirs = np.abs(first), np.abs(others)
    theirs = theirs / theirs.sum(axis=1, keepdims=True)
    return np.minimum(mine / mine.sum(), theirs).sum(axis=1)


def _phase_randomised(
    rate: Float[np.ndarray, " point"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw point"]:
    spectrum = np.fft.rfft(rate)
    phases = rng.uniform(0, 2 * np.pi, (count, len(spectrum)))
    phases[:, 0] = 0  # the mean stays
    return np.fft.irfft(spectrum * np.exp(1j * phases), len(rate), axis=1)
