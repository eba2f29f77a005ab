"""Attention that is reduced while a model runs, one layer at a time and a few rows at a time.

A profile over 256 lags recorded as 256 diagonals would keep 256 numbers per query. Here blocks of
rows are multiplied with the band of keys before them, and the band is summed along its diagonals.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from pipeline.engine.kernels import attend, capped
from pipeline.engine.masks import RuleMask, causal_mask
from pipeline.engine.record import Corner, Entropy, LagMeans, Reduced

# Queries of one block: a block of float32 scores over 1,024 keys then takes 0.5 MiB per head.
_ROWS = 128


@runtime_checkable
class Attention(Protocol):
    """One layer's attention, available in rectangular tiles."""

    @property
    def length(self) -> int:
        """Number of positions."""
        ...

    def tile(self, queries: range, keys: range) -> Float[Tensor, "batch head query key"]:
        """Return attention of a range of queries to a range of keys.

        Entries whose key comes after the query are undefined.
        """
        ...

    def entropy(self) -> Float[Tensor, "batch head query"]:
        """Return the entropy of each query's attention, in nats."""
        ...


def reduced(
    request: Reduced, attention: Attention, defined: Bool[Tensor, "batch query"] | None
) -> Float[Tensor, "batch head _"]:
    """Return a request's result for one layer; queries not `defined` (padding) do not count."""
    match request:
        case LagMeans(n_lags):
            return mean_by_lag(attention, n_lags, defined)
        case Entropy():
            entropy = attention.entropy()
            return entropy if defined is None else entropy.where(defined[:, None], torch.nan)
        case Corner(_, length):
            return corner(attention, length, defined).flatten(2)


def mean_by_lag(
    attention: Attention, n_lags: int, defined: Bool[Tensor, "batch query"] | None = None
) -> Float[Tensor, "batch head lag"]:
    """Return the mean of attention[i, i - lag] over i >= lag, for each lag < n_lags.

    NaN for lags that no query has.
    """
    sums, counts = 0, 0
    for first in range(0, attention.length, _ROWS):
        queries = range(first, min(first + _ROWS, attention.length))
        keys = range(max(0, first - n_lags + 1), queries.stop)
        band = attention.tile(queries, keys)
        # Pad with keys before the first token: every row then has n_lags keys up to its own.
        band = pad(band, (n_lags - 1 - (first - keys.start), 0))
        by_lag = _along_diagonals(band, n_lags)
        exists = _exists(queries, n_lags, by_lag.device)
        if defined is not None:
            exists = exists & defined[:, None, queries.start : queries.stop, None]
            by_lag = by_lag.where(exists, 0)
        sums = sums + by_lag.sum(-2)
        counts = counts + exists.sum(-2)
    assert isinstance(sums, Tensor)
    return sums / counts


def corner(
    attention: Attention, length: int, defined: Bool[Tensor, "batch query"] | None = None
) -> Float[Tensor, "batch head corner corner"]:
    """Return the attention among the first `length` tokens; 0 where the key comes after the query.

    NaN for queries that are not `defined`.
    """
    # `tril` replaces the undefined entries of a tile, which may be infinite.
    matrix = attention.tile(range(length), range(length)).tril()
    if defined is None:
        return matrix
    return matrix.where(defined[:, None, :length, None], torch.nan)


def _along_diagonals(
    band: Float[Tensor, "batch head query key"], n_lags: int
) -> Float[Tensor, "batch head query lag"]:
    """Return entries r .. r + n_lags - 1 of each row r, the last first.

    A row stride of width + 1 walks along the diagonals, so that the view itself takes no copy.
    """
    *outer, rows, width = band.shape
    *steps, _, _ = band.contiguous().stride()
    view = band.contiguous().as_strided((*outer, rows, n_lags), (*steps, width + 1, 1))
    return view.flip(-1)


def _exists(queries: range, n_lags: int, device: torch.device) -> Bool[Tensor, "query lag"]:
    position = torch.arange(queries.start, queries.stop, device=device)
    return position[:, None] >= torch.arange(n_lags, device=device)


@dataclass(frozen=True)
class FromMatrix:
    """The attention of a layer, from its whole matrix."""

    weights: Float[Tensor, "batch head query key"]

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.weights.shape[-1]

    def tile(self, queries: range, keys: range) -> Float[Tensor, "batch head query key"]:
        """Implement the method of `Attention`."""
        return self.weights[..., queries.start : queries.stop, keys.start : keys.stop]

    def entropy(self) -> Float[Tensor, "batch head query"]:
        """Implement the method of `Attention`."""
        return torch.special.entr(self.weights).sum(-1)


@dataclass(frozen=True)
class FromScores:
    """The attention of a layer, from a fused kernel's log-sum-exp: p = exp(score - lse)."""

    q: Float[Tensor, "batch head query d_head"]
    k: Float[Tensor, "batch kv_head key d_head"]
    lse: Float[Tensor, "batch head query"]
    scale: float
    softcap: float | None
    mask: RuleMask | None

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.q.shape[2]

    def tile(self, queries: range, keys: range) -> Float[Tensor, "batch head query key"]:
        """Implement the method of `Attention`."""
        rows, columns = slice(queries.start, queries.stop), slice(keys.start, keys.stop)
        q = self.q[:, :, rows].unflatten(1, (self.k.shape[1], -1)).to(self.lse.dtype)
        k = self.k[:, :, None, columns].to(self.lse.dtype)
        scores = capped((q @ k.mT).flatten(1, 2) * self.scale, self.softcap)
        if self.mask is not None:
            scores = scores + self.mask.tile(queries, keys, scores.dtype)
        return (scores - self.lse[:, :, rows, None]).exp_()

    def entropy(self) -> Float[Tensor, "batch head query"]:
        """Return sum_j p_ij (lse_i - score_ij), without a matrix of scores.

        sum_j p_ij score_ij is scale <q_i, sum_j p_ij k_j>: attention with the keys as values. The
        attention to all keys together, `of_keys`, is 1 except for a sink's share.
        """
        # A capped score is not linear in the key, so the identity does not hold for it.
        if self.softcap is not None:
            return self._entropy_by_rows()
        q, k = self.q.to(self.lse.dtype), self.k.to(self.lse.dtype)
        mean_key, lse_of_keys = attend(q, k, k, self.mask, self.scale)
        mean_score = self.scale * torch.linalg.vecdot(q, mean_key.transpose(1, 2))
        of_keys = (lse_of_keys - self.lse).exp()
        return (of_keys * (self.lse - mean_score)).clamp_(min=0)

    def _entropy_by_rows(self) -> Float[Tensor, "batch head query"]:
        rows = []
        mask = self.mask or causal_mask(self.q.device)
        spelled_out = FromScores(self.q, self.k, self.lse, self.scale, self.softcap, mask)
        for first in range(0, self.length, _ROWS):
            queries = range(first, min(first + _ROWS, self.length))
            tile = spelled_out.tile(queries, range(queries.stop))
            rows.append(torch.special.entr(tile).sum(-1))
        return torch.cat(rows, dim=-1)
