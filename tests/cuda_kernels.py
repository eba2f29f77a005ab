"""CUDA's fused attention kernels by their definition, with what they refuse, for a CPU."""

from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Compute `_scaled_dot_product_flash_attention`."""
    _require(query.dtype in _HALF, "flash attention takes half precision only")
    _require(query.shape[-1] % 8 == 0 and query.shape[-1] <= 256, "head size of flash attention")
    _require(query.shape[1] == key.shape[1], "flash attention wants a key for each head")
    out, lse = _attention(query, key, value, None, is_causal, scale)
    rest = (None, None, query.shape[2], key.shape[2], None, None, None)
    return (out, lse, *rest)


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Compute `_scaled_dot_product_efficient_attention`."""
    _require(query.dtype in (*_HALF, torch.float32), "no float64 in efficient attention")
    of_head = 16 // query.element_size()
    _require(query.shape[-1] % of_head == 0, "head size of efficient attention")
    _require(query.shape[1] == key.shape[1], "efficient attention wants a key for each head")
    if attn_bias is not None:
        _require(attn_bias.dtype == query.dtype, "dtype of the mask")
        _require(
            attn_bias.shape == (*query.shape[:3], key.shape[2]), "shape of the mask: expand it"
        )
        aligned = all(step % of_head == 0 for step in attn_bias.stride()[:-1])
        _require(aligned and attn_bias.stride(-1) == 1, "attn_bias is not correctly aligned")
    out, lse = _attention(query, key, value, attn_bias, is_causal, scale)
    # The kernel pads its log-sum-exp to a multiple of 32 queries.
    padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)
    return out, padded if compute_log_sumexp else lse[..., :0], None, None


def _attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q.float() @ k.float().mT * factor
    if bias is not None:
        scores = scores + bias.float()
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    lse = scores.logsumexp(-1)
    out = (scores - lse[..., None]).exp() @ v.float()
    # In memory as [batch, query, head, d], as the kernels return it.
    return out.to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2), lse


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"CUDA: {what}")


KERNELS = {
    "_scaled_dot_product_flash_attention": _flash,
    "_scaled_dot_product_efficient_attention": _efficient,
}
