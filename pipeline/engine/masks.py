"""Attention masks, kept as rules until their entries are needed.

transformers passes an attention mask from the model to its attention function without reading it.
Here it passes the rule that makes the mask, so that a window over 16,384 tokens needs no
16,384 x 16,384 matrix: the fused kernel gets the mask tile by tile, and the requested query-key
pairs are looked up one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from pipeline.errors import InputError


class _NotATensorError(InputError, AttributeError):
    """Raised for an attribute that a tensor has and a `RuleMask` lacks.

    It is an AttributeError, so that `hasattr` returns False.
    """


@dataclass(frozen=True, eq=False)
class RuleMask:
    """A mask given by transformers' own rule (`mask_function`) and the padding of the batch.

    Its entries are additive: 0 where a query sees a key, -inf where it does not.
    reach: queries see no key that many or more positions back; None without such a limit.
    """

    rule: Callable[..., Any]
    padding: Bool[Tensor, "batch key"] | None
    reach: int | None
    batch_size: int
    device: torch.device

    def __getattr__(self, name: str) -> Any:
        """Raise an error that gives the reason where a model's code expects a tensor."""
        # copy, pickle and torch probe for special methods: to them the absence is no error.
        if name.startswith("__"):
            raise AttributeError(name)
        raise _NotATensorError(
            f"this model reads the attention mask itself (its {name!r}), which is not made as a "
            "tensor here: its attention cannot be recorded exactly; choose measures of weights only"
        )

    def keys_seen(self, first: int, last: int) -> tuple[int, int]:
        """Return a range of keys outside of which queries first..last-1 see none."""
        return (0 if self.reach is None else max(0, first - self.reach + 1)), last

    def tile(
        self, queries: range, keys: range, dtype: torch.dtype
    ) -> Float[Tensor, "#batch 1 query key"]:
        """Return the mask between two ranges; a query that sees nothing (padding) sees itself.

        This leaves no row empty: kernels differ in what they return for an empty one.
        """
        q = torch.arange(queries.start, queries.stop, device=self.device)[None, None, :, None]
        k = torch.arange(keys.start, keys.stop, device=self.device)[None, None, None, :]
        seen = self._seen(q, k)
        return _additive(seen | (~seen.any(dim=-1, keepdim=True) & (q == k)), dtype)

    def pairs(
        self, queries: Int[Tensor, " query"], keys: Int[Tensor, "#batch query"], dtype: torch.dtype
    ) -> Float[Tensor, "#batch 1 query"]:
        """Return the mask at single entries."""
        return _additive(self._seen(queries[None, None], keys[:, None]), dtype)

    def sees_ahead(self, length: int) -> bool:
        """Return whether some query sees the token after it."""
        q = torch.arange(length - 1, device=self.device)[None, None]
        return bool(self._seen(q, q + 1).any())

    def _seen(self, q: Int[Tensor, "..."], k: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
        batch = torch.arange(self.batch_size, device=self.device).view(-1, *(1,) * (q.ndim - 1))
        # Mask functions take a head index, which causal and sliding-window ones do not use.
        head = torch.zeros((), dtype=torch.long, device=self.device)
        seen = self.rule(batch, head, q, k)
        return seen if self.padding is None else seen & self.padding[batch, k]


def causal_mask(device: torch.device) -> RuleMask:
    """Return the mask that None means, for kernels without a causal option."""
    return RuleMask(causal_mask_function, None, None, 1, device)


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Bool[Tensor, "batch key"] | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> RuleMask | None:
    """Return the mask that `AttentionMaskInterface` passes on; None means plainly causal.

    Raises InputError for masks that cannot be evaluated entry by entry, or that are not causal.
    """
    if use_vmap or q_offset or kv_offset or q_length != kv_length:
        raise InputError(
            "this model builds an attention mask that is no rule on the positions of one sequence "
            "(it has a cache or a custom overlay): its attention cannot be recorded exactly"
        )
    padding = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
    # A window as long as the sequence is no limit: plain causal attention, with faster kernels.
    reach = None if local_size is None or q_length <= local_size else local_size
    mask = RuleMask(mask_function, padding, reach, batch_size, torch.device(device))
    if mask.sees_ahead(q_length):
        raise InputError(
            "this model lets a token attend to later tokens, so its losses are no predictions: "
            "give checkpoints of a causal decoder"
        )
    # transformers forbids the skip for masks with an overlay, which are not plainly causal.
    if allow_is_causal_skip and padding is None and reach is None:
        return None
    return mask


def _additive(seen: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    blank = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return blank.masked_fill_(~seen, -torch.inf)
