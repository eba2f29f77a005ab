"""Per-token cross-entropy from hidden states, without the [tokens, vocabulary] matrix of logits.

    loss[n] = logsumexp_v(logit[n, v]) - logit[n, target[n]],   logit = f(h W_U + b)

in tiles of tokens by vocabulary that stay in the processor's cache; f is the scaling and softcap
that some families apply to logits. Sums are in float32 at least.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.kernels import capped

# Tokens and vocabulary entries of one tile, by kind of device; see tests/benchmarks/engine.py.
TILES = {"cpu": (512, 1048), "cuda": (8192, 8192)}


@dataclass(frozen=True)
class Unembedding:
    """The map from the last hidden state to logits: softcap(scale * (h weight^T + bias))."""

    weight: Float[Tensor, "vocabulary d_model"]
    bias: Float[Tensor, "vocabulary"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def transform(self, raw: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """From h weight^T + bias to logits; may work in place."""
        if self.scale != 1.0:
            raw.mul_(self.scale)
        return capped(raw, self.softcap)

    def logits(self, h: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocabulary"]:
        """All logits, in float32 at least."""
        raw = torch.nn.functional.linear(h, self.weight, self.bias)
        return self.transform(raw.to(_wide(raw.dtype)))


def token_losses(
    h: Float[Tensor, "token d_model"], targets: Int[Tensor, "token"], unembedding: Unembedding
) -> Float[Tensor, "token"]:
    """-log softmax(logits)[target] of every token, in nats."""
    n_tokens, n_entries = TILES["cuda" if h.device.type == "cuda" else "cpu"]
    losses = h.new_empty(len(h), dtype=_wide(h.dtype))
    buffer = h.new_empty(min(n_tokens, len(h)) * min(n_entries, len(unembedding.weight)))
    for first in range(0, len(h), n_tokens):
        part = slice(first, first + n_tokens)
        total = _log_sum_exp(h[part], unembedding, n_entries, buffer)
        losses[part] = total - _target_logits(h[part], targets[part], unembedding)
    return losses


def _log_sum_exp(
    h: Float[Tensor, "token d_model"], unembedding: Unembedding, n_entries: int, buffer: Tensor
) -> Float[Tensor, "token"]:
    weight, bias = unembedding.weight, unembedding.bias
    parts = []
    for first in range(0, len(weight), n_entries):
        w = weight[first : first + n_entries]
        tile = buffer[: len(h) * len(w)].view(len(h), len(w))
        torch.mm(h, w.T, out=tile)
        if bias is not None:
            tile += bias[first : first + n_entries]
        parts.append(unembedding.transform(tile.to(_wide(tile.dtype))).logsumexp(dim=-1))
    return torch.stack(parts).logsumexp(dim=0)


def _target_logits(
    h: Float[Tensor, "token d_model"], targets: Int[Tensor, "token"], unembedding: Unembedding
) -> Float[Tensor, "token"]:
    wide = _wide(h.dtype)
    raw = torch.linalg.vecdot(h.to(wide), unembedding.weight[targets].to(wide))
    if unembedding.bias is not None:
        raw += unembedding.bias[targets]
    return unembedding.transform(raw)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
