"""The axis on which series are judged: decades of training steps, in bins, without spikes.

Training is saved at steps that are evenly spaced, doubled, or both in turn. On a logarithmic axis
a change has a width that does not depend on when it happened; and since late checkpoints of an even
schedule are crowded there, they are averaged in bins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Real
from scipy.ndimage import median_filter

BINS = 200  # more points are averaged: the cost no longer grows with them
_BEYOND = 2  # checkpoints before and after a change, without which it is not seen to begin or end
_PASSES = ((11, 1.0, 11), (31, 8.0, 124))
_FEW, _SHORT = 2, 0.15  # a spike has at most so many points, or is so many decades long,
_HUGE = 30.0  # or so many times as far away as the running median ranges
_DEVIATIONS = 8.0  # median absolute deviations from it that make a point a spike


@dataclass(frozen=True)
class LogAxis:
    """Steps on a logarithmic axis, in bins. counts: checkpoints in each bin."""

    steps: Integer[np.ndarray, " step"]
    bin_of: Integer[np.ndarray, " step"]
    x: Float[np.ndarray, " bin"]
    counts: Integer[np.ndarray, " bin"]

    def binned(self, values: Float[np.ndarray, "*series step"]) -> Float[np.ndarray, "*series bin"]:
        """Return the mean of each bin."""
        if len(self.x) == len(self.steps):
            return values
        starts = np.flatnonzero(np.diff(self.bin_of, prepend=-1))
        return np.add.reduceat(values, starts, axis=-1) / self.counts

    def holds(self, start: float, end: float) -> bool:
        """Return whether checkpoints lie on both sides of a part of the axis."""
        before, after = self.counts[self.x < start].sum(), self.counts[self.x > end].sum()
        return bool(min(before, after) >= _BEYOND)


def log_steps(steps: Real[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    """Return log10 of ascending steps; step 0 is put at half of the first positive step.

    Without a positive step, all are at 0.
    """
    positive = steps[steps > 0]
    if not positive.size:
        return np.zeros(len(steps))
    return np.log10(np.maximum(steps, positive[0] / 2).astype(np.float64))


def make_axis(steps: Integer[np.ndarray, " step"], bins: int = BINS) -> LogAxis:
    """Return the axis of ascending, distinct steps, with at most about `bins` bins."""
    x = log_steps(steps)
    bin_of = np.arange(len(x))
    if len(x) > bins:
        # An even schedule leaves many early bins empty: narrow them until `bins` are in use.
        low, high = bins, 64 * bins
        while high - low > bins // 20:
            wanted = (low + high) // 2
            low, high = (low, wanted) if _used(x, wanted) > bins else (wanted, high)
        _, bin_of = np.unique(_numbers(x, low), return_inverse=True)
    counts = np.bincount(bin_of)
    return LogAxis(steps, bin_of, np.bincount(bin_of, x) / counts, counts)


def _numbers(x: Float[np.ndarray, " step"], count: int) -> Integer[np.ndarray, " step"]:
    span = x[-1] - x[0]
    return np.minimum(((x - x[0]) / span * count).astype(np.int64), count - 1)


def _used(x: Float[np.ndarray, " step"], count: int) -> int:
    return len(np.unique(_numbers(x, count)))


def without_spikes(
    steps: Integer[np.ndarray, " step"], values: Float[np.ndarray, "series step"]
) -> tuple[Float[np.ndarray, "series step"], Bool[np.ndarray, "series step"]]:
    """Replace spikes by the running median; return the values and where spikes were.

    Values of a spike are further from the running median than 8 median absolute deviations, and
    further than the range that 90% of the running median covers: a step that is far larger than the
    noise is none. They come back: a spike has values before it, and is short, in decades of steps
    too, or huge. With a running median of 11 points, and then of 31, for which a spike must be
    eight times as far, so that a rise and fall within some checkpoints is not taken for one.
    """
    x, cleaned, found = log_steps(steps), values, np.zeros(values.shape, dtype=bool)
    for window, ranges, points in _PASSES:
        if values.shape[1] < points:
            break
        median = _running_median(cleaned, window)
        off = np.abs(cleaned - median)
        deviation = np.median(off, axis=1, keepdims=True)
        low, high = np.percentile(median, [5, 95], axis=1)
        away = off / np.maximum(high - low, np.finfo(float).tiny)[:, None]
        spikes = _spikes(x, (off > _DEVIATIONS * deviation) & (away > ranges), away)
        cleaned, found = np.where(spikes, median, cleaned), found | spikes
    return cleaned, found


def _spikes(
    x: Float[np.ndarray, " step"],
    far: Bool[np.ndarray, "series step"],
    away: Float[np.ndarray, "series step"],
) -> Bool[np.ndarray, "series step"]:
    """Keep the runs of True that do not begin the series, and are short on a log axis or huge."""
    kept = np.zeros_like(far)
    for i in np.flatnonzero(far.any(axis=1)):
        for first, after in _runs(far[i]):
            short = after - first <= _FEW or x[after - 1] - x[first] <= _SHORT
            if first > 0 and (short or away[i, first:after].max() > _HUGE):
                kept[i, first:after] = far[i, first:after]
    return kept


def _runs(far: Bool[np.ndarray, " step"]) -> list[tuple[int, int]]:
    """Return where runs of True begin and end; a few False do not interrupt one."""
    found: list[tuple[int, int]] = []
    for first, after in np.flatnonzero(np.diff(far, prepend=False, append=False)).reshape(-1, 2):
        if found and first - found[-1][1] <= _FEW:
            first = found.pop()[0]
        found.append((int(first), int(after)))
    return found


def _running_median(
    values: Float[np.ndarray, "series step"], window: int
) -> Float[np.ndarray, "series step"]:
    """Return running medians. Beyond its ends a series is taken to be as in its outer windows."""
    half = window // 2
    first = np.median(values[:, :window], axis=1, keepdims=True)
    last = np.median(values[:, -window:], axis=1, keepdims=True)
    padded = np.concatenate(
        [np.repeat(first, half, axis=1), values, np.repeat(last, half, axis=1)], axis=1
    )
    return median_filter(padded, size=(1, window))[:, half:-half]
