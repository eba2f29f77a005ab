"""The principal components of a loss space, explained: their scores and their loadings.

A component has a score at each checkpoint and a loading for each token. Both are explained by the
same features: scores by how each feature's losses went over training, loadings by the feature of
each token. "The first component is overall loss" is thus two claims, with a verdict for each.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Integer
from scipy.stats import f

from pipeline.aggregate.blocks import in_order
from pipeline.aggregate.loss_space import gram_matrix, loadings
from pipeline.aggregate.regressors import checkpoint_series, early_and_late, token_columns
from pipeline.aggregate.shares import (
    Shares,
    resampled_blocks,
    resampled_units,
    shares_of_variance,
    with_interval,
)
from pipeline.aggregate.variables import variable
from pipeline.errors import InputError

SAME = 0.9  # share of variance from which on a component is said to be overall loss
_P = 0.05
_OF = ("scores", "loadings")
_RANDOM = 10_000  # directions


def explain_axes(
    groups: Mapping[str, xr.Dataset],
    space: xr.Dataset,
    features: xr.Dataset,
    *,
    components: int = 3,
    resamples: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """Return which shares of a space's first components are explained by which features.

    groups: those of `loss_space`; features: of `token_features`, of the same input.

    Loadings are regressed over tokens on position (12 bins, evenly spaced in log position), log
    frequency, repetition (two indicators), bigram loss, and the direction of the in-context score
    (+1 at its late position, -1 at its early one, else 0). Scores are regressed over checkpoints on
    the mean loss, the in-context score, the slope over tokens of the loss on log position, on log
    frequency and on bigram loss, and the mean losses of repeated tokens and of repeated pairs less
    that of new tokens. `alone`: R² of a feature; `unique`: what it adds to all others. A loading's
    share of mean loss is the squared cosine with the direction in which all tokens change alike
    (uncentred: the other features explain the centred loadings).

    Intervals (90%): bootstrap over sequences for loadings, moving blocks over checkpoints for
    scores; the components themselves are not refitted. `alone_p`: for scores, the share of random
    directions in token space whose scores are explained as well by the component, since where one
    component dominates, all series resemble it; for loadings, the p-value of the F test, as if
    tokens were independent.

    `verdict`, for scores and loadings apart: "holds" where the interval of the share explained by
    mean loss lies above 0.9 (and for scores `alone_p` is at most 0.05), "does not hold" where it
    lies below, else "undecided".
    """
    first = next(iter(groups.values()))
    arrays = {name: in_order(group["loss"]) for name, group in groups.items()}
    if any(features.sizes[dim] != first["loss"].sizes[dim] for dim in ("sequence", "position")):
        raise InputError(
            f"expected features of {first['loss'].sizes['sequence']} sequences and "
            f"{first['loss'].sizes['position']} positions, found {dict(features.sizes)}"
        )
    if not space["share"].notnull().any():
        raise InputError("all checkpoints have the same losses: there is nothing to explain")
    rng = np.random.default_rng(seed)
    space = space.isel(component=slice(components))
    loading = loadings(arrays, space).transpose("component", "sequence", "position").values
    counted = np.asarray(np.isfinite(loading).all(axis=0))
    early_late = early_and_late(first)
    columns = token_columns(features, early_late)
    of_loadings, cosines = _loading_shares(loading, counted, columns, resamples, rng)
    series = checkpoint_series(groups, arrays, space, features, counted)
    of_scores = _score_shares(space, series, resamples, rng)
    null = _random_shares(space, rng)
    widths = [1, *(column.shape[-1] for column in columns.values())]
    alone = np.concatenate([cosines[0][:, None], of_loadings.alone[0]], axis=1)
    p = _f_test(alone, np.array(widths), int(counted.sum()))
    return _result(space, series["mean_loss"], arrays, of_scores, of_loadings, cosines, null, p)


def _f_test(
    shares: Float[np.ndarray, "component feature"], widths: Integer[np.ndarray, " feature"], n: int
) -> Float[np.ndarray, "component feature"]:
    """Return p-values of shares explained by so many regressors over n independent rows.

    The first share is of a constant, the others of regressors beside one.
    """
    rest = np.maximum(n - 1 - np.where(np.arange(len(widths)) == 0, 0, widths), 1)
    with np.errstate(divide="ignore"):
        return f.sf(shares / (1 - shares) * rest / widths, widths, rest)


def _loading_shares(
    loading: Float[np.ndarray, "component sequence position"],
    counted: Bool[np.ndarray, "sequence position"],
    columns: Mapping[str, Float[np.ndarray, "sequence position column"]],
    resamples: int,
    rng: np.random.Generator,
) -> tuple[Shares, Float[np.ndarray, "3 component"]]:
    """Return the shares of the loadings, and their squared cosines with an equal change of all."""
    sequence = np.nonzero(counted)[0]
    weights = resampled_units(len(counted), resamples, rng)
    # A sequence without any token that counts has no weight in any case.
    targets = loading[:, counted].T
    shares = shares_of_variance(
        {name: column[counted] for name, column in columns.items()}, targets, sequence, weights
    )
    sums = [
        np.stack([np.bincount(sequence, row, minlength=len(counted)) for row in values])
        for values in (targets.T, targets.T**2)
    ]
    counts = np.bincount(sequence, minlength=len(counted))
    all_weights = np.concatenate([np.ones((1, len(counted))), weights])
    total, squares, number = (all_weights @ one.T for one in (*sums, counts[None]))
    return shares, with_interval(total**2 / number / squares)


def _score_shares(
    space: xr.Dataset,
    series: Mapping[str, Float[np.ndarray, "checkpoint column"]],
    resamples: int,
    rng: np.random.Generator,
) -> Shares:
    _, first, lengths = np.unique(space["run"].values, return_index=True, return_counts=True)
    weights = resampled_blocks(lengths[np.argsort(first)].tolist(), resamples, rng)
    scores = space["scores"].values
    return shares_of_variance(series, scores, np.arange(len(scores)), weights)


def _random_shares(
    space: xr.Dataset, rng: np.random.Generator
) -> Float[np.ndarray, "direction component"]:
    """Return R² of each component's scores on the series of random directions in token space.

    The series of a Gaussian direction is sum_k sqrt(variance_k) z_k u_k, of standard normal z and
    the components' unit vectors u, so that R² is share_k z_k^2 over the sum of all. What the
    components that are not given explain enters with its mean.
    """
    share = space["share"].values
    squares = share * rng.standard_normal((_RANDOM, len(share))) ** 2
    return squares / (squares.sum(axis=1, keepdims=True) + max(1 - share.sum(), 0.0))


def _result(
    space: xr.Dataset,
    mean: Float[np.ndarray, "checkpoint 1"],
    arrays: Mapping[str, xr.DataArray],
    of_scores: Shares,
    of_loadings: Shares,
    cosines: Float[np.ndarray, "3 component"],
    null: Float[np.ndarray, "direction component"],
    loadings_p: Float[np.ndarray, "component feature"],
) -> xr.Dataset:
    names = ["mean_loss", *_NAMES[-of_loadings.alone.shape[2] :]]
    alone = np.stack([of_scores.alone, np.concatenate([cosines[:, :, None], of_loadings.alone], 2)])
    blank = np.full((3, cosines.shape[1], 1), np.nan)
    unique = np.stack([of_scores.unique, np.concatenate([blank, of_loadings.unique], 2)])
    p = (1 + (null[:, :, None] >= of_scores.alone[0]).sum(axis=0)) / (1 + len(null))
    p = np.stack([p, loadings_p])
    share, low, high = alone[:, :, 0, 0].T
    dims = ("of", "component", "feature")
    result = {
        **_with_bounds("alone", dims, alone, "Share of variance that a feature explains alone."),
        **_with_bounds("unique", dims, unique, "Share of variance that no other feature explains."),
        **_with_bounds("together", dims[:2], np.stack([of_scores.together, of_loadings.together]),
                       "Share of variance that all features explain together (of loadings: of "
                       "the centred ones)."),
        "alone_p": variable(
            dims, p, "1",
            "P-value: of scores, the share of random directions in token space that are as much "
            "like the component; of loadings, of the F test.",
        ),
        "verdict": variable(
            "of", _verdicts(low, high, float(p[0, 0, 0])), "1",
            "The first component is overall loss: holds, does not hold, or undecided.",
        ),
        **_mean_direction(space, mean[:, 0], arrays),
    }  # fmt: skip
    labels = {"of": list(_OF), "component": space["component"], "feature": names}
    about = {"verdict_shares": share.tolist(), "threshold": SAME}
    return xr.Dataset(result, labels, about)


_NAMES = ("in_context_score", "position", "log_frequency", "repetition", "bigram_loss")


def _with_bounds(
    name: str, dims: tuple[str, ...], values: Float[np.ndarray, "of 3 ..."], definition: str
) -> dict[str, xr.Variable]:
    """Return a variable with the low and the high end of its 90% interval."""
    parts = np.moveaxis(values, 1, 0)
    ends = {"": definition, "_low": "Low end of the 90% interval.", "_high": "High end of it."}
    named = zip(ends.items(), parts, strict=True)
    return {name + end: variable(dims, part, "1", about) for (end, about), part in named}


def _verdicts(low: np.ndarray, high: np.ndarray, p: float) -> list[str]:
    found = []
    for of, a, b in zip(_OF, low, high, strict=True):
        holds = a >= SAME and (of == "loadings" or p <= _P)
        found.append("holds" if holds else "does not hold" if b < SAME else "undecided")
    return found


def _mean_direction(
    space: xr.Dataset, mean: Float[np.ndarray, " checkpoint"], arrays: Mapping[str, xr.DataArray]
) -> dict[str, xr.Variable]:
    """Return the variance of the direction of mean loss, and the first share without it."""
    gram = gram_matrix(arrays)
    centred = mean - mean.mean()
    products = gram.products / gram.tokens
    without = np.linalg.eigvalsh(products - np.outer(centred, centred))
    total = float(np.trace(products))
    return {
        "mean_loss_share": variable(
            (), centred @ centred / total, "1",
            "Share of the variance along the direction in which all tokens change alike.",
        ),
        "first_share_without_mean": variable(
            (), without[-1] / without.sum(), "1",
            "Share of the first component of losses less each checkpoint's mean loss.",
        ),
    }  # fmt: skip
