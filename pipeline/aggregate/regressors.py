"""Regressors for the principal components of losses: of tokens, and of checkpoints."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from pipeline.aggregate.blocks import Block, in_order, over_tokens, parts
from pipeline.aggregate.loss_space import kept_rows
from pipeline.aggregate.token_features import REPETITION

_POSITION_BINS = 12


def early_and_late(group: xr.Dataset) -> tuple[int, int] | None:
    """Return the positions that the in-context score compares.

    None where they are unknown, and where the sequences do not reach them.
    """
    parameters = group.attrs.get("parameters") or {}
    early, late = (parameters.get(name, np.inf) for name in ("early_token", "late_token"))
    if "in_context_score" in group and max(early, late) <= group["loss"].sizes["position"]:
        return early - 1, late - 1
    return None


def token_columns(
    features: xr.Dataset, early_late: tuple[int, int] | None
) -> dict[str, Float[np.ndarray, "sequence position column"]]:
    """Return the regressors of loadings, by feature."""
    shape = (features.sizes["sequence"], features.sizes["position"])
    position = np.arange(1, shape[1] + 1)
    bins = np.floor(np.log(position) / np.log(shape[1] + 1) * _POSITION_BINS)
    columns = {}
    if early_late:
        direction = np.zeros(shape)
        direction[:, early_late[1]], direction[:, early_late[0]] = 1, -1
        columns["in_context_score"] = direction[:, :, None]
    _, bins = np.unique(bins, return_inverse=True)
    indicators = np.eye(bins.max() + 1)[bins][:, 1:]
    columns["position"] = np.broadcast_to(indicators, (*shape, indicators.shape[1]))
    columns["log_frequency"] = features["log_frequency"].values[:, :, None]
    repetition = features["repetition"].values
    columns["repetition"] = np.stack([repetition == 1, repetition == 2], axis=2).astype(float)
    columns["bigram_loss"] = features["bigram_loss"].values[:, :, None]
    return columns


def checkpoint_series(
    groups: Mapping[str, xr.Dataset],
    arrays: Mapping[str, xr.DataArray],
    space: xr.Dataset,
    features: xr.Dataset,
    counted: Bool[np.ndarray, "sequence position"],
) -> dict[str, Float[np.ndarray, "checkpoint column"]]:
    """Return how each feature's losses went over training: the regressors of scores."""
    directions = _directions(features, counted)
    dims = ("step", "sequence", "position")
    products = _products(arrays, kept_rows(arrays, space), xr.DataArray(directions, dims=dims))
    mean, position, frequency, bigram, repeated, pair = products
    series = {"mean_loss": mean[:, None]}
    if all(early_and_late(group) for group in groups.values()):
        scores = [in_order(group["in_context_score"]).values for group in groups.values()]
        series["in_context_score"] = np.concatenate(scores)[kept_rows(arrays, space), None]
    series["position"] = position[:, None]
    series["log_frequency"] = frequency[:, None]
    series["repetition"] = np.stack([repeated, pair], axis=1)
    series["bigram_loss"] = bigram[:, None]
    return series


def _directions(
    features: xr.Dataset, counted: Bool[np.ndarray, "sequence position"]
) -> Float[np.ndarray, "direction sequence position"]:
    """Return directions in token space: their products with losses are `checkpoint_series`.

    0 where a token does not count: with it a product is not a number.
    """
    position = np.log(np.arange(1, counted.shape[1] + 1)) + np.zeros(counted.shape)
    found = [np.where(counted, 1 / counted.sum(), 0.0)]
    for values in (position, features["log_frequency"].values, features["bigram_loss"].values):
        centred = np.where(counted, values - values[counted].mean(), 0.0)
        found.append(centred / max(float((centred**2).sum()), 1e-300))
    kinds = [counted & (features["repetition"].values == i) for i in range(len(REPETITION))]
    shares = [kind / max(kind.sum(), 1) for kind in kinds]
    # A kind that does not occur has no mean loss: its series is constant.
    found += [(share - shares[0]) * bool(kinds[0].any() and share.any()) for share in shares[1:]]
    return np.stack(found)


def _products(
    arrays: Mapping[str, xr.DataArray], rows: Bool[np.ndarray, " row"], directions: xr.DataArray
) -> Float[np.ndarray, "direction checkpoint"]:
    """Return the products of the losses of some checkpoints with directions, streamed."""
    count = directions.sizes["step"]

    multiply = partial(_multiplied, count=count, rows=rows)
    return np.sum(list(over_tokens(multiply, [*arrays.values(), directions])), axis=0)


def _multiplied(
    block: Block, *, count: int, rows: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, "direction kept"]:
    """Return the products of a block's last rows, `count` directions, with some of the others."""
    total = np.zeros((count, int(rows.sum())))
    for part in parts(block):
        mine, weights = part[:-count][rows].astype(np.float64), part[-count:]
        counted = weights.any(axis=0)
        total += weights[:, counted] @ mine[:, counted].T
    return total
