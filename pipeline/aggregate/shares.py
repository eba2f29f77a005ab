"""Shares of variance explained by groups of regressors, with bootstrap intervals.

Everything follows from second moments of resampled units (sequences, checkpoints), which are
summed once per unit: a bootstrap is one product of weights and moments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

LEVEL = 0.9  # of intervals
_RANK = 1e-9  # relative size below which a direction of the regressors counts as none


@dataclass(frozen=True)
class Shares:
    """R² of each group alone, what it adds to all others (unique), and of all groups together.

    First axis: value, low and high end of a 90% interval.
    """

    alone: Float[np.ndarray, "3 target group"]
    unique: Float[np.ndarray, "3 target group"]
    together: Float[np.ndarray, "3 target"]


def shares_of_variance(
    columns: Mapping[str, Float[np.ndarray, "row column"]],
    targets: Float[np.ndarray, "row target"],
    units: Integer[np.ndarray, " row"],
    weights: Float[np.ndarray, "resample unit"],
) -> Shares:
    """Return how much of each target's variance groups of columns explain, by least squares.

    columns: the regressors by group; all regressions have an intercept. units: the unit of each
    row, from 0. weights: how often each resample has each unit. Targets without variance: NaN.
    """
    names, (columns_of, table) = list(columns), _standardised(columns)
    rows = np.concatenate([np.ones((len(targets), 1)), table, targets], axis=1)
    moments = _moments(rows, units, weights.shape[1])
    resampled = np.concatenate([moments.sum(axis=0)[None], np.tensordot(weights, moments, 1)])
    first_target = 1 + table.shape[1]
    everything = [i for name in names for i in columns_of[name]]

    def explained(used: Sequence[int]) -> Float[np.ndarray, "resample target"]:
        return _explained(resampled, list(used), first_target)

    together = explained(everything)
    alone = np.stack([explained(columns_of[name]) for name in names], axis=2)
    without = [[i for i in everything if i not in columns_of[name]] for name in names]
    unique = together[:, :, None] - np.stack([explained(used) for used in without], axis=2)
    return Shares(with_interval(alone), with_interval(unique), with_interval(together))


def with_interval(
    resampled: Float[np.ndarray, "resample ..."],
) -> Float[np.ndarray, "3 ..."]:
    """Return the first row, which is of the sample itself, and the ends of an interval around it.

    They are quantiles of the other rows, less their bias: noise that is drawn twice looks like a
    relation, so that shares of resamples are too large, by their mean less that of the sample.
    """
    own, others = resampled[0], resampled[1:]
    if not len(others):
        return np.stack([own, *[np.full_like(own, np.nan)] * 2])
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ends = np.quantile(others, tails, axis=0) - (others.mean(axis=0) - own)
    return np.stack([own, *np.clip(ends, 0, 1)])


def resampled_units(
    count: int, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample unit"]:
    """Return how often each of `count` independent units is drawn; none where there is one only."""
    if count < 2:
        return np.zeros((0, count))
    return rng.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)


def resampled_blocks(
    lengths: Sequence[int], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample unit"]:
    """Return how often each checkpoint is drawn by moving blocks within runs of these lengths.

    Blocks of round(sqrt(n)) successive checkpoints, drawn with replacement (Künsch 1989).
    """
    parts = []
    for length in lengths:
        block = max(round(length**0.5), 1)
        starts = rng.integers(0, length - block + 1, (resamples, -(-length // block)))
        drawn = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :length]
        counts = np.zeros((resamples, length))
        np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
        parts.append(counts)
    return np.concatenate(parts, axis=1)


def _standardised(
    columns: Mapping[str, Float[np.ndarray, "row column"]],
) -> tuple[dict[str, list[int]], Float[np.ndarray, "row all"]]:
    """Return the columns of each group in a table behind an intercept, and the table."""
    places, start = {}, 1
    for name, group in columns.items():
        places[name] = list(range(start, start + group.shape[1]))
        start += group.shape[1]
    table = np.concatenate(list(columns.values()), axis=1).astype(np.float64)
    table -= table.mean(axis=0)
    spread = table.std(axis=0)
    return places, table / np.where(spread > 0, spread, 1.0)


def _moments(
    rows: Float[np.ndarray, "row column"], units: Integer[np.ndarray, " row"], count: int
) -> Float[np.ndarray, "unit column column"]:
    moments = np.zeros((count, rows.shape[1], rows.shape[1]))
    order = np.argsort(units, kind="stable")
    bounds = np.searchsorted(units[order], np.arange(count + 1))
    for unit in range(count):
        mine = rows[order[bounds[unit] : bounds[unit + 1]]]
        moments[unit] = mine.T @ mine
    return moments


def _explained(
    moments: Float[np.ndarray, "resample column column"], used: list[int], first_target: int
) -> Float[np.ndarray, "resample target"]:
    """Return R² of the targets on the used columns; 0 where none is used."""
    count = moments[:, 0, 0, None]
    means = moments[:, 0, :] / count
    centred = moments - count[:, :, None] * means[:, :, None] * means[:, None, :]
    targets = np.arange(first_target, moments.shape[1])
    total = centred[:, targets, targets]
    if not used:
        return np.zeros_like(total)
    inner = centred[:, used][:, :, used]
    across = centred[:, used][:, :, targets]
    solved = np.linalg.pinv(inner, rcond=_RANK, hermitian=True) @ across
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (across * solved).sum(axis=1) / total, np.nan)
