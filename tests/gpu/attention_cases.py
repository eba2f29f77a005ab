"""The cases of the part `kernels`: shapes, masks, caps and sinks, by family."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.masking_utils import (
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from pipeline.engine.masks import RuleMask, make_mask
from tests.gpu.definition import Seen, causal

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALF)
HEAD_SIZES = (8, 20, 32, 36, 40, 64, 80, 96, 100, 128, 192, 256, 512)
LENGTHS = (1, 2, 7, 31, 32, 33, 127, 128, 129, 257, 1000, 2048, 4096, 16_384)
MOST_ON_CPU = 300  # positions


@dataclass(frozen=True)
class Case:
    """One call of `attend`. window, chunk: of the mask; padding: tokens of it before the others.

    layout: how the tensors lie in memory. tile: entries of a tile of the mask, if not the engine's.
    """

    family: str
    length: int = 129
    d_head: int = 64
    batch: int = 2
    heads: int = 4
    kv_heads: int = 4
    d_value: int | None = None
    window: int | None = None
    chunk: int | None = None
    padding: int = 0
    after: bool = False
    softcap: float | None = None
    sinks: bool = False
    layout: str = "by head"
    tile: int | None = None
    size: float = 1.5
    dtypes: tuple[torch.dtype, ...] = DTYPES

    @property
    def masked(self) -> bool:
        return bool(self.window or self.chunk or self.padding)

    def __str__(self) -> str:
        plain = Case(self.family)
        changed = {k: v for k, v in vars(self).items() if v != getattr(plain, k)}
        return " ".join(f"{k}={v}" for k, v in changed.items() if k != "dtypes") or "plain"


def expected_kernel(case: Case, dtype: torch.dtype, device: str) -> str:
    """Return the kernel that docs/gpu.md names for a case, on cards from Ampere on."""
    if case.softcap or (case.d_value or case.d_head) != case.d_head:
        return "exact"
    if device == "cpu":
        return "cpu"
    if case.d_head % 8 or dtype == torch.float64:
        return "exact"
    return "flash" if dtype in HALF and not case.masked and case.d_head <= 256 else "efficient"


def cases(small: bool) -> Iterator[Case]:
    """Yield all cases, or with `small` those that a CPU computes in a few seconds."""
    for case in _all():
        if not small or case.length <= MOST_ON_CPU:
            yield case


def _all() -> Iterator[Case]:
    for length in LENGTHS:
        large = length > 4096
        yield Case("lengths", length, batch=1 if large else 2, heads=2 if large else 4,
                   kv_heads=2 if large else 4)  # fmt: skip
    for d_head in HEAD_SIZES:
        yield Case("head sizes", 130, d_head)
        yield Case("head sizes under a window", 130, d_head, window=50)
    for kv_heads in (1, 2, 8):
        yield Case("grouped heads", 129, heads=8, kv_heads=kv_heads)
        yield Case("grouped heads", 129, heads=8, kv_heads=kv_heads, window=17)
    yield Case("grouped heads", 1, heads=8, kv_heads=2)
    for length, window in (
        (129, 1),
        (129, 7),
        (257, 128),
        (1000, 128),
        (4096, 512),
        (16_384, 4096),
    ):
        yield Case("windows", length, window=window, batch=1 if length > 4096 else 2)
    yield Case("windows", 203, window=50, tile=4000)
    yield Case("windows", 203, window=50, padding=9, tile=4000)
    for length, padding in ((129, 1), (129, 100), (257, 16), (1000, 37), (4096, 1000)):
        yield Case("padding", length, padding=padding)
        yield Case("padding", length, padding=padding, after=True)
    yield Case("chunks", 129, chunk=16)
    yield Case("chunks", 1000, chunk=300, padding=11)
    for length, softcap in ((129, 1.5), (129, 50.0), (1000, 30.0), (4096, 50.0)):
        yield Case("softcaps", length, softcap=softcap)
        yield Case("softcaps", length, softcap=softcap, window=65, kv_heads=2)
    yield Case("sinks", 129, sinks=True)
    yield Case("sinks", 129, sinks=True, window=20, kv_heads=2)
    yield Case("sinks", 1000, sinks=True, softcap=30.0)
    yield Case("values of another size", 129, d_head=64, d_value=40)
    yield Case("float64", 129, dtypes=(torch.float64,))
    for layout in ("by position", "fused", "across"):
        yield Case("layouts", 131, layout=layout, kv_heads=2)
        yield Case("layouts", 131, layout=layout, window=20)
    yield Case("large scores", 129, size=12.0)
    yield Case("large scores", 129, size=12.0, window=30)
    yield Case("many sequences", 3, d_head=8, batch=65_535, heads=2, kv_heads=2)
    yield replace(Case("many sequences", 3, d_head=8, batch=65_535, heads=2, kv_heads=2), padding=1)


def tensors(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values on the CPU, laid out in memory as the case says."""
    random = torch.Generator().manual_seed(case.length * 1000 + case.d_head)
    made = []
    for heads, d, size in (
        (case.heads, case.d_head, case.size),
        (case.kv_heads, case.d_head, case.size),
        (case.kv_heads, case.d_value or case.d_head, 1.0),
    ):
        shape = (case.batch, heads, case.length, d)
        made.append((torch.randn(shape, generator=random) * size).to(dtype))
    return made[0], made[1], made[2]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the tensor [batch, head, position, d] with another order in memory."""
    match layout:
        case "by position":  # as linear maps of most models yield them
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "fused":  # a third of the numbers of each head, as GPT-NeoX's map yields them
            wide = torch.cat([x, x, x], dim=-1).transpose(1, 2).contiguous().transpose(1, 2)
            return wide.chunk(3, dim=-1)[1]
        case "across":  # the numbers of a vector are apart
            return x.mT.contiguous().mT
    return x


def mask_of(case: Case, device: str) -> tuple[RuleMask | None, Seen]:
    """Return the case's mask, as transformers would request it, and by its definition."""
    lefts = torch.tensor([case.padding] + [0] * (case.batch - 1))
    keys = torch.arange(case.length)
    real = keys >= lefts[:, None]
    if case.after:
        real = keys < case.length - lefts[:, None]
    rule = {}
    if case.window:
        rule = {"mask_function": sliding_window_causal_mask_function(case.window)}
    elif case.chunk:
        left = torch.zeros(case.batch, dtype=torch.long, device=device)
        rule = {"mask_function": chunked_causal_mask_function(case.chunk, left)}
    mask = make_mask(
        case.batch,
        case.length,
        case.length,
        attention_mask=real.to(device) if case.padding else None,
        local_size=case.window or case.chunk,
        device=device,
        **rule,
    )

    def seen(sequence: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found = causal(sequence, query, key)
        if case.window:
            found = found & (query - key < case.window)
        if case.chunk:
            found = found & (query // case.chunk == key // case.chunk)
        return found & real[sequence, key]

    return mask, seen
