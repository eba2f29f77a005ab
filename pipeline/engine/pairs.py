"""Requested query-key pairs, in the form that is cheapest to look up."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.engine.record import AttentionRequest, KeyMap, KeyPosition, Lag, Reduced


@dataclass(frozen=True)
class Pairs:
    """One request, resolved on the shape of its input: the key requested for each query.

    Queries `first` to the last one; each at a fixed `lag`, or all at one `key`, or, where neither
    is given, at `index`. undefined: where the record holds NaN besides the queries before `first`.
    """

    first: int
    lag: int | None = None
    key: int | None = None
    index: Int[Tensor, "sequence query"] | None = None
    undefined: Bool[Tensor, "sequence query"] | None = None

    def keys(
        self, length: int, sequences: slice, device: torch.device
    ) -> Int[Tensor, "#sequence query"]:
        """Return the key of each query from `first` on."""
        queries = torch.arange(self.first, length, device=device)[None]
        if self.lag is not None:
            return queries - self.lag
        if self.key is not None:
            return torch.full_like(queries, self.key)
        assert self.index is not None
        # Queries without a key look up key 0; `undefined` then replaces the result by NaN.
        return self.index[sequences, self.first :].to(device).clamp(min=0)


def resolve(
    request: AttentionRequest, tokens: Int[np.ndarray, "sequence query"]
) -> Pairs | Reduced:
    """Return the cheapest form of a request: a map with a single lag or key needs no index.

    Raises ValueError where a requested key comes after its query.
    """
    match request:
        case Lag(lag):
            _require(lag >= 0, f"{request} requests keys after their queries")
            return Pairs(first=lag, lag=lag)
        case KeyPosition(position):
            _require(position >= 0, f"{request} is no position from the start")
            return Pairs(first=position, key=position)
        case KeyMap(index):
            _require(
                index.shape == tokens.shape,
                f"a key map has shape {index.shape}, not {tokens.shape}",
            )
            return _resolve_map(index)
        case _:
            return request


def _resolve_map(index: Int[np.ndarray, "sequence query"]) -> Pairs:
    length = index.shape[1]
    defined = index >= 0
    lags = (np.arange(length) - index)[defined]
    if not len(lags):  # no query has a key: `first` beyond the last query leaves NaN throughout
        return Pairs(first=length, lag=0)
    _require(int(lags.min()) >= 0, "a key map requests keys after their queries")
    first = int(np.flatnonzero(defined.any(axis=0))[0])
    undefined = None if defined[:, first:].all() else torch.from_numpy(~defined)
    keys = index[defined]
    if (lags == lags[0]).all():
        return Pairs(max(first, int(lags[0])), lag=int(lags[0]), undefined=undefined)
    if (keys == keys[0]).all():
        return Pairs(max(first, int(keys[0])), key=int(keys[0]), undefined=undefined)
    return Pairs(first, index=torch.from_numpy(index.astype(np.int64)), undefined=undefined)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
