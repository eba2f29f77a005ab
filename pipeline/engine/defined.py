"""Masks of the defined entries of a record, which follow from tokens and shapes alone.

A record holds NaN for queries without the requested key and for padding. A model that is not finite
yields NaN too, so a mask made from the numbers would leave out what it should report.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.engine.record import Entropy, KeyMap, KeyPosition, Lag, PairRequest
from pipeline.inputs import Input


def real_tokens(made: Input) -> Bool[np.ndarray, "sequence position"]:
    """Return a mask of the tokens that are not padding."""
    mask = made.arrays.get("attention_mask")
    return np.ones(made.tokens.shape, dtype=bool) if mask is None else mask.astype(bool)


def defined_predictions(made: Input) -> Bool[np.ndarray, "sequence prediction"]:
    """Return a mask of the predictions t -> t + 1 in which neither token is padding."""
    real = real_tokens(made)
    return real[:, 1:] & real[:, :-1]


def defined_queries(
    request: PairRequest | Entropy, made: Input
) -> Bool[np.ndarray, "sequence query"]:
    """Return a mask of the queries that have the requested key."""
    real, position = real_tokens(made), np.arange(made.tokens.shape[1])
    match request:
        case Lag(lag):
            return real & (position >= lag)
        case KeyPosition(key):
            return real & (position >= key)
        case KeyMap(index):
            return real & (index >= 0)
        case Entropy():
            return real


def defined_lags(n_lags: int, made: Input) -> Bool[np.ndarray, "sequence lag"]:
    """Return a mask of the lags at which a sequence has any query, as `LagMeans` counts them."""
    real = real_tokens(made)
    return np.stack([real[:, lag:].any(axis=1) for lag in range(n_lags)], axis=1)


def mean_over_queries(
    values: Float[Tensor, "layer sequence head query"], defined: Bool[np.ndarray, "sequence query"]
) -> Float[np.ndarray, "layer head"]:
    """Return the mean over the defined queries of all sequences, in float64; NaN over none."""
    counted = torch.from_numpy(defined)[None, :, None]
    return (values.double().where(counted, 0).sum(dim=(1, 3)) / int(defined.sum())).numpy()
