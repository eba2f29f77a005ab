"""Per-token cross-entropy from hidden states, without the [tokens, vocabulary] matrix of logits.

    loss[n] = log sum_v exp(logit[n, v]) - logit[n, target[n]],   logit = f(h W_U + b)

in tiles of tokens by vocabulary that fit into the processor's cache; f is the scaling and softcap
that some families apply to logits.

Logits are computed in units of log 2, because 2^x costs a third of e^x, and the sum is taken
without a pass over all logits for their maximum: any shift near a token's largest logit keeps
2^(x - shift) in range, and the largest of the first tile is nearly always near enough. Where it is
not, the sum is infinite, and the tokens are computed again with the true maximum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.kernels import capped
from pipeline.engine.products import linear
from pipeline.engine.threads import in_threads

# Tokens and vocabulary entries of one tile, by kind of device. Fixed rather than tuned to the
# machine, because the order of summation, and with it the last digits of a loss, follows from them.
TILES = {"cpu": (512, 4192), "cuda": (4096, 8384)}

# Logits whose shift may be left out, in units of log 2: float32 holds 2^-126 to 2^127.
_SMALL = 60.0


@dataclass(frozen=True)
class Unembedding:
    """The map from the last hidden state to logits: softcap(scale * (h weight^T + bias))."""

    weight: Float[Tensor, "vocabulary d_model"]
    bias: Float[Tensor, " vocabulary"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def transform(self, raw: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the logits that follow from h weight^T + bias."""
        return capped(raw * self.scale, self.softcap)

    def logits(self, h: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocabulary"]:
        """Return all logits, in float32 or wider."""
        raw = linear(h, self.weight, self.bias)
        return self.transform(raw.to(_wide(raw.dtype)))


def token_losses(
    h: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"], unembedding: Unembedding
) -> Float[Tensor, " token"]:
    """Return -log softmax(logits)[target] of every token, in nats, in float32 or wider."""
    n_tokens, n_entries = TILES["cuda" if h.device.type == "cuda" else "cpu"]
    parts = list(zip(h.split(n_tokens), targets.split(n_tokens), strict=True))
    return torch.cat(
        in_threads(
            lambda part: _losses(_Logits(part[0], unembedding, n_entries), part[1]), parts, h.device
        )
    )


def _losses(logits: "_Logits", targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    total, of_target = _sum_of_powers(logits, targets)
    if not total.isfinite().all():
        total, of_target = _sum_of_powers(logits, targets, logits.maximum())
    return (total.log2() - of_target) * math.log(2)


def _sum_of_powers(
    logits: "_Logits",
    targets: Int[Tensor, " token"],
    shift: Float[Tensor, "token 1"] | float | None = None,
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Return the sum over the vocabulary of 2^(x - shift), and x - shift of the targets.

    A target's logit is taken from the tile itself: computed separately, it could round differently,
    and the loss of a certain prediction would not be exactly 0.
    """
    # A scalar, so that the first sum sets the dtype and shape.
    total, found = torch.zeros((), device=logits.h.device), []
    for first, tile in logits.tiles():
        # From the first tile; later ones must use the same shift for their sums to add up.
        shift = _near_maximum(tile) if shift is None else shift
        if isinstance(shift, Tensor):
            tile -= shift
        # Clamped, so that every tile yields one value per token; only one of them is the target's.
        found.append(tile.gather(1, (targets - first).clamp(0, tile.shape[1] - 1)[:, None]))
        total = total + tile.exp2_().sum(dim=1)
    tile_of = (targets // logits.n_entries)[:, None]
    return total, torch.cat(found, dim=1).gather(1, tile_of)[:, 0]


def _near_maximum(tile: Float[Tensor, "token entry"]) -> Float[Tensor, "token 1"] | float:
    """Return each token's largest logit in a tile, or 0 where all are too small to need a shift."""
    top = tile.amax(dim=1, keepdim=True)
    # Reading the maximum synchronises with the GPU, but once per batch of tokens only.
    return 0.0 if float(top.abs().max()) < _SMALL else top


class _Logits:
    """Logits of some tokens in units of log 2, one tile of the vocabulary at a time."""

    def __init__(
        self, h: Float[Tensor, "token d_model"], unembedding: Unembedding, n_entries: int
    ) -> None:
        self.weight, self.softcap = unembedding.weight, unembedding.softcap
        self.n_entries = n_entries
        # A softcap applies to natural units, so that `_tile` converts to units of log 2 after it.
        factor = unembedding.scale if self.softcap else unembedding.scale * math.log2(math.e)
        # Scaling h instead of the logits saves a pass; in half precision it would cost digits.
        early = h.dtype == _wide(h.dtype)
        self.h = h * factor if early else h
        self.factor = 1.0 if early else factor
        bias = unembedding.bias
        self.bias = bias * factor if bias is not None and early else bias

    def tiles(self) -> Iterator[tuple[int, Float[Tensor, "token entry"]]]:
        """Yield each tile, which the caller may overwrite, with the index of its first column."""
        for first in range(0, len(self.weight), self.n_entries):
            yield first, self._tile(first)

    def maximum(self) -> Float[Tensor, "token 1"]:
        """Return the largest logit of each token."""
        tops = [tile.amax(dim=1, keepdim=True) for _, tile in self.tiles()]
        return torch.cat(tops, dim=1).amax(dim=1, keepdim=True)

    def _tile(self, first: int) -> Float[Tensor, "token entry"]:
        entries = slice(first, first + self.n_entries)
        bias = None if self.bias is None else self.bias[entries]
        tile = linear(self.h, self.weight[entries], bias)
        tile = tile.to(_wide(tile.dtype))
        if self.factor != 1.0:
            tile *= self.factor
        if self.softcap is not None:
            tile.div_(self.softcap).tanh_().mul_(self.softcap * math.log2(math.e))
        return tile


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
