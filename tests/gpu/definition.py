"""Attention by its definition, in float64 on the CPU, at some queries: the oracle of `kernels`."""

from collections.abc import Callable

import torch
from torch import Tensor

# [sequence, query, key] -> whether the query sees the key.
Seen = Callable[[Tensor, Tensor, Tensor], Tensor]

# Numbers of float64 in one block of the matrix: 128 MB.
_BLOCK = 1 << 24


def causal(_: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def scores(
    q: Tensor, k: Tensor, rows: Tensor, seen: Seen, scale: float, softcap: float | None
) -> Tensor:
    """Return scores [batch, head, row, key] of some queries; -inf where the key is not seen."""
    batch, heads, _, _ = q.shape
    k = k.double().repeat_interleave(heads // k.shape[1], dim=1)
    found = q[:, :, rows].double() @ k.transpose(-1, -2) * scale
    if softcap is not None:
        found = softcap * torch.tanh(found / softcap)
    sequence = torch.arange(batch)[:, None, None]
    visible = seen(sequence, rows[None, :, None], torch.arange(k.shape[2])[None, None])
    visible = visible.expand(batch, -1, -1)
    # Padding sees itself, so that no row is empty.
    itself = rows[None, :, None] == torch.arange(k.shape[2])
    visible = visible | (~visible.any(-1, keepdim=True) & itself)
    return found.masked_fill(~visible[:, None], -torch.inf)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    seen: Seen,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Return outputs [batch, row, head, d], log-sum-exps [batch, head, row], and the largest score.

    The last is without its sign. The tensors are on the CPU; rows: the indices of the queries.
    """
    values = v.double().repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    outs, lses, largest = [], [], 0.0
    for some in rows.split(max(1, _BLOCK // (q.shape[0] * q.shape[1] * q.shape[2]))):
        found = scores(q, k, some, seen, scale, softcap)
        largest = max(largest, float(found[found.isfinite()].abs().max()))
        all_scores = found
        if sinks is not None:
            sink = sinks.double()[None, :, None, None].expand(*found.shape[:3], 1)
            all_scores = torch.cat([found, sink], dim=-1)
        lse = all_scores.logsumexp(-1)
        outs.append(((found - lse[..., None]).exp() @ values).transpose(1, 2))
        lses.append(lse)
    return torch.cat(outs, dim=1), torch.cat(lses, dim=2), largest


def probabilities(found: Tensor, lse: Tensor, keys: Tensor) -> Tensor:
    """Return attention [batch, head, row] to one key of each row, from `scores` and their sum."""
    index = keys[:, None, :, None].expand(*found.shape[:2], -1, -1)
    return (found.gather(3, index)[..., 0] - lse).exp()
