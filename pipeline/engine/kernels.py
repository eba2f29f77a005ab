"""Softmax attention that also yields its log-sum-exp: one number per query that turns any single
query-key score into its attention, p[i, j] = exp(score[i, j] - lse[i]).

Fused kernels compute it as a by-product. The choice of kernel follows from device, dtype and shapes
alone (`choose`); `exact` computes whatever they cannot, a few rows of the matrix at a time.

    CPU                     flash attention for CPU
    CUDA, half, no mask     flash attention        (head size a multiple of 8, <= 256; Ampere on)
    CUDA, half or float32   memory-efficient attention   (head size a multiple of 8; bfloat16 from
                            Ampere on)
    anything else           `exact`

The ops are private to torch: its public `scaled_dot_product_attention` calls them and drops the
log-sum-exp. Where a version of torch lacks one, `exact` is used.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pipeline.engine.masks import RuleMask, causal_mask

Query = Float[Tensor, "batch head query d_head"]
Key = Float[Tensor, "batch kv_head key d_head"]
Value = Float[Tensor, "batch kv_head key d_value"]
Output = Float[Tensor, "batch query head d_value"]
LogSumExp = Float[Tensor, "batch head query"]
Bias = Float[Tensor, "#batch _ query key"]  # a mask, the same for all heads or one for each
Kernel = Callable[[Query, Key, Value, Bias | None, float], tuple[Output, LogSumExp]]
Part = tuple[Float[Tensor, "batch _ head d_value"], Float[Tensor, "batch head _"]]

# Entries of a tile of scores or of a mask: bounds the memory that a mask or `exact` takes.
TILE = 1 << 22

# The CPU's op compares blocks of 64 queries with all 512 keys of a block, seen or not, in sequences
# of fewer tokens than `_LONG`. Longer ones gain nothing from being divided by us.
_ROWS, _LONG = 64, 768


def attend(
    q: Query,
    k: Key,
    v: Value,
    mask: RuleMask | None,
    scale: float,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> tuple[Output, LogSumExp]:
    """Return the attention output and log-sum-exp (natural, float32 or wider) of every query.

    mask None: causal. Heads may share keys and values in equal groups. softcap c: scores become
    c tanh(score / c) (Gemma 2). sinks: per head one more score in the softmax's denominator, whose
    key has no value (GPT-OSS). Where scores are not finite, the log-sum-exp is NaN.
    """
    kernel = choose(q, v, masked=mask is not None)
    if softcap is not None or kernel is None:
        out, lse = exact(q, k, v, mask or causal_mask(q.device), scale, softcap)
        out = out.to(q.dtype)
    elif mask is None:
        out, lse = kernel(q, k, v, None, scale)
    else:
        out, lse = _tiled(kernel, q, k, v, mask, scale)
    # CUDA's flash attention returns an infinite log-sum-exp for NaN scores, with which the
    # attention to all other keys would come out as 0 instead of NaN.
    lse = lse.where(lse.isfinite(), torch.nan)
    if sinks is not None:
        with_sink = torch.logaddexp(lse, sinks.to(lse.dtype)[None, :, None])
        out = out * (lse - with_sink).exp().to(out.dtype).transpose(1, 2)[..., None]
        lse = with_sink
    return out, lse


def choose(q: Query, v: Value, masked: bool) -> Kernel | None:
    """Return the fused kernel for these tensors, by a fixed rule; None where only `exact` works."""
    d_head, kernel = q.shape[-1], None
    if v.shape[-1] != d_head:
        return None
    if q.device.type == "cpu":
        kernel = _cpu
    elif q.device.type == "cuda" and d_head % 8 == 0:
        half = q.dtype in (torch.float16, torch.bfloat16)
        served = half and _is_ampere_or_later(q.device)
        if served and not masked and d_head <= 256:
            kernel = _cuda_flash
        elif served or q.dtype in (torch.float16, torch.float32):
            kernel = _cuda_efficient
    return kernel if kernel is not None and hasattr(torch.ops.aten, _OPS[kernel]) else None


def _is_ampere_or_later(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _cpu(q: Query, k: Key, v: Value, bias: Bias | None, scale: float) -> tuple[Output, LogSumExp]:
    """Call the CPU's flash attention. Under a causal mask, no query meets what it does not see."""
    q, k, v = _in_rows(q), _in_rows(k), _in_rows(v)
    if bias is not None:
        return _cpu_op(q, k, v, bias, scale)
    # Where a sum of finite numbers overflows, they are only treated needlessly.
    if (k.sum() + v.sum()).isfinite():
        return _cpu_causal(q, k, v, scale)
    return _cpu_of_finite(q, k, v, scale)


def _cpu_op(
    q: Query, k: Key, v: Value, bias: Bias | None, scale: float
) -> tuple[Output, LogSumExp]:
    """Call the op, whose output is in memory as [batch, query, head, d_value], hence a view."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, bias is None, attn_mask=bias, scale=scale
    )
    return out.transpose(1, 2), lse


def _cpu_causal(q: Query, k: Key, v: Value, scale: float) -> tuple[Output, LogSumExp]:
    """Call the op under a causal mask; in parts where these are faster, for short sequences."""
    if _ROWS < q.shape[2] < _LONG:
        return _cpu_of_seen_keys(q, k, v, scale)
    return _cpu_op(q, k, v, None, scale)


def _cpu_of_finite(q: Query, k: Key, v: Value, scale: float) -> tuple[Output, LogSumExp]:
    """Call it without what is not finite; blank the queries that see it under a causal mask.

    The op also multiplies keys and values that a query does not see, by 0 or before they are
    masked, and 0 times NaN is NaN.
    """
    out, lse = _cpu_causal(q, k.nan_to_num(0, 0, 0), v.nan_to_num(0, 0, 0), scale)
    keys, values = (_repeated((~x.isfinite()).to(q.dtype).cumsum(dim=2), q) > 0 for x in (k, v))
    unscored = keys.any(dim=-1, keepdim=True)
    out = out.masked_fill((unscored | values).transpose(1, 2), torch.nan)
    return out, lse.masked_fill(unscored[..., 0], torch.nan)


def _cpu_of_seen_keys(q: Query, k: Key, v: Value, scale: float) -> tuple[Output, LogSumExp]:
    """Call it for some queries at a time, with the keys that they see under a causal mask."""
    length = q.shape[2]
    position = torch.arange(length)
    # The mask of the last queries; that of earlier ones is the part above as many of their keys.
    unseen = position > position[-_ROWS:, None]
    mask = torch.zeros(unseen.shape, dtype=q.dtype).masked_fill_(unseen, -torch.inf)
    parts = []
    for queries in _ranges(length, _ROWS):
        keys = slice(queries.stop)
        bias = mask[None, None, -len(queries) :, length - queries.stop :]
        parts.append(_cpu_op(q[:, :, _s(queries)], k[:, :, keys], v[:, :, keys], bias, scale))
    return _joined(parts)


def _cuda_flash(
    q: Query, k: Key, v: Value, bias: Bias | None, scale: float
) -> tuple[Output, LogSumExp]:
    assert bias is None  # `choose` never picks it under a mask: the kernel has no argument for one
    q, k, v = _in_rows(q), _in_rows(_repeated(k, q)), _in_rows(_repeated(v, q))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, True, False, scale=scale
    )
    lse = lse[..., : q.shape[2]]  # which may be padded
    # For few heads, blocks of threads share the keys of a query. Those with a score that is NaN are
    # then left out of its log-sum-exp, and only its output tells.
    return out.transpose(1, 2), lse.masked_fill(out.isnan().all(dim=-1), torch.nan)


def _cuda_efficient(
    q: Query, k: Key, v: Value, bias: Bias | None, scale: float
) -> tuple[Output, LogSumExp]:
    """Call memory-efficient attention.

    The kernel requires rows of a mask to begin at multiples of 16 entries, and returns a padded
    log-sum-exp.
    """
    q, k, v = _in_rows(q), _in_rows(_repeated(k, q)), _in_rows(_repeated(v, q))
    if bias is not None:
        keys = k.shape[2]
        bias = pad(bias, (0, -keys % 16))[..., :keys].expand(*q.shape[:3], keys)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, bias is None, scale=scale
    )
    return out.transpose(1, 2), lse[..., : q.shape[2]]


_OPS: dict[Kernel, str] = {
    _cpu: "_scaled_dot_product_flash_attention_for_cpu",
    _cuda_flash: "_scaled_dot_product_flash_attention",
    _cuda_efficient: "_scaled_dot_product_efficient_attention",
}


def _repeated(x: Key, q: Query) -> Float[Tensor, "batch head key d"]:
    groups = q.shape[1] // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _in_rows(x: Float[Tensor, "*outer d"]) -> Float[Tensor, "*outer d"]:
    """Return the tensor with the numbers of each vector side by side in memory.

    Fused kernels require it: that for the CPU does not check, and would read other numbers.
    """
    return x if x.stride(-1) == 1 else x.contiguous()


def _tiled(
    kernel: Kernel, q: Query, k: Key, v: Value, mask: RuleMask, scale: float
) -> tuple[Output, LogSumExp]:
    """Call a fused kernel under a mask, one range of queries and the keys they see at a time."""
    batch, _, length, _ = q.shape
    parts = []
    for queries in _ranges(length, TILE // (batch * length)):
        keys = range(*mask.keys_seen(queries.start, queries.stop))
        bias = mask.tile(queries, keys, q.dtype)
        parts.append(
            kernel(q[:, :, _s(queries)], k[:, :, _s(keys)], v[:, :, _s(keys)], bias, scale)
        )
    return _joined(parts)


def exact(
    q: Query, k: Key, v: Value, mask: RuleMask, scale: float, softcap: float | None
) -> tuple[Output, LogSumExp]:
    """Compute attention by its definition, one range of queries at a time, in float32 or wider."""
    batch, heads, length, _ = q.shape
    parts = []
    for queries in _ranges(length, TILE // (batch * heads * length)):
        keys = range(*mask.keys_seen(queries.start, queries.stop))
        bias = mask.tile(queries, keys, torch.promote_types(q.dtype, torch.float32))
        rows = q[:, :, _s(queries)], k[:, :, _s(keys)], v[:, :, _s(keys)]
        parts.append(_exact_rows(*rows, bias, scale, softcap))
    return _joined(parts)


def _exact_rows(
    q: Query, k: Key, v: Value, bias: Bias, scale: float, softcap: float | None
) -> tuple[Output, LogSumExp]:
    """Compute `exact` for some queries.

    Works in place, with the queries of heads that share keys in one product: the tile of scores is
    the largest tensor, and a copy of it would double the memory.
    """
    kv_heads, rows = k.shape[1], q.shape[2]
    # The dtype of the mask is float32 or wider, and so are scores, softmax and output.
    q, k, v = (x.to(bias.dtype) for x in (q, k, v))
    scores = (q.unflatten(1, (kv_heads, -1)).flatten(2, 3) @ k.mT).mul_(scale)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    scores.unflatten(2, (-1, rows)).add_(bias[:, :, None])
    # Never -inf: a mask leaves no query without a key (see `RuleMask.tile`).
    top = scores.amax(dim=-1, keepdim=True)
    total = scores.sub_(top).exp_().sum(dim=-1, keepdim=True)
    out = (scores @ v).div_(total).unflatten(2, (-1, rows)).flatten(1, 2)
    lse = (top + total.log())[..., 0].unflatten(2, (-1, rows)).flatten(1, 2)
    return out.transpose(1, 2), lse


def capped(scores: Float[Tensor, "*shape"], softcap: float | None) -> Float[Tensor, "*shape"]:
    """Return c tanh(score / c); None leaves scores as they are."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _ranges(length: int, rows: int) -> list[range]:
    rows = max(16, rows)  # fewer would make long sequences slow, however wide their rows are
    return [range(first, min(first + rows, length)) for first in range(0, length, rows)]


def _s(positions: range) -> slice:
    return slice(positions.start, positions.stop)


def _joined(parts: list[Part]) -> tuple[Output, LogSumExp]:
    if len(parts) == 1:
        return parts[0]
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, dim=1), torch.cat(lses, dim=2)
