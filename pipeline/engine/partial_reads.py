"""The part of a head's output that it reads from some keys only, without an attention matrix."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.record import KeyRule
from pipeline.engine.reductions import FromScores

# Queries of one block; the keys that its rule allows are a tile of this many rows.
_ROWS = 128


@dataclass(frozen=True)
class Part:
    """A part of a head's output, from the keys that a rule allows; `rest` replaces the others."""

    rule: KeyRule
    rest: Float[Tensor, " d_value"] | Float[Tensor, ""]


@dataclass(frozen=True)
class Reads:
    """The attention and the values of one layer, and the tokens of the batch.

    tokens: those of padding are negative and differ, so that they equal no others.
    """

    attention: FromScores
    value: Float[Tensor, "batch kv_head key d_value"]
    tokens: Int[Tensor, "batch position"]

    def through(self, rule: KeyRule, head: int) -> Float[Tensor, "batch position d_value"]:
        """Return sum_j p[i, j] v[j] over the keys j <= i that the rule allows, block by block."""
        attention, value = self._of_head(head)
        parts = []
        for first in range(0, attention.length, _ROWS):
            queries = range(first, min(first + _ROWS, attention.length))
            keys = range(queries.stop)
            # `tril` because the entries of a tile whose key comes after its query are undefined.
            allowed = rule.allowed(self.tokens, queries, keys).tril(queries.start)
            p = attention.tile(queries, keys)[:, 0].where(allowed, 0)
            parts.append(p @ value[:, : queries.stop].to(p.dtype))
        return torch.cat(parts, dim=1)

    def _of_head(self, head: int) -> tuple[FromScores, Float[Tensor, "batch key d_value"]]:
        whole = self.attention
        # Heads [kv_head, group]: those of one group share keys and values.
        kv_head = head // (whole.q.shape[1] // whole.k.shape[1])
        own, shared = slice(head, head + 1), slice(kv_head, kv_head + 1)
        one = replace(whole, q=whole.q[:, own], k=whole.k[:, shared], lse=whole.lse[:, own])
        return one, self.value[:, kv_head]


def marked(
    tokens: Int[Tensor, "sequence position"], padding: Tensor | None
) -> Int[Tensor, "sequence position"]:
    """Return the tokens with those of padding replaced by -1, -2, ... by position."""
    if padding is None:
        return tokens
    return tokens.where(~padding, -1 - torch.arange(tokens.shape[1]))
