"""Attention kernels against the definition, and the rule that chooses among them."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import (
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from pipeline.engine import kernels
from pipeline.engine.kernels import attend, exact
from pipeline.engine.masks import RuleMask, causal_mask, make_mask
from pipeline.errors import InputError

CPU = torch.device("cpu")
LENGTH = 40


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float,
    softcap: float | None = None, sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute output [batch, query, head, d] and log-sum-exp, one query and head at a time."""
    batch, heads, length, _ = q.shape
    out = torch.zeros(batch, length, heads, v.shape[-1], dtype=torch.float64)
    lse = torch.zeros(batch, heads, length, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // k.shape[1])
            for i in range(length):
                keys = seen[b, i].nonzero()[:, 0]
                score = k[b, shared, keys].double() @ q[b, h, i].double() * scale
                score = score if softcap is None else softcap * torch.tanh(score / softcap)
                rest = score if sinks is None else torch.cat([score, sinks[h : h + 1].double()])
                lse[b, h, i] = rest.logsumexp(0)
                out[b, i, h] = (score - lse[b, h, i]).exp() @ v[b, shared, keys].double()
    return out, lse


def tensors(dtype: torch.dtype = torch.float64, kv_heads: int = 4, d_value: int = 8):
    torch.manual_seed(0)
    make = lambda heads, d: torch.randn(2, heads, LENGTH, d).to(dtype)  # noqa: E731
    return make(4, 8) * 2, make(kv_heads, 8), make(kv_heads, d_value)


def causal() -> Tensor:
    return torch.ones(2, LENGTH, LENGTH).tril().bool()


def windowed(width: int) -> tuple[RuleMask, Tensor]:
    mask = make_mask(
        2, LENGTH, LENGTH, mask_function=sliding_window_causal_mask_function(width),
        local_size=width,
    )  # fmt: skip
    assert mask is not None
    return mask, causal() & torch.ones(2, LENGTH, LENGTH).triu(1 - width).bool()


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_causal_attention_is_the_definition(
    kv_heads: int, softcap: float | None, with_sinks: bool
) -> None:
    q, k, v = tensors(kv_heads=kv_heads)
    sinks = torch.tensor([0.0, 3.0, -2.0, 8.0]) if with_sinks else None
    found = attend(q, k, v, None, 0.3, softcap, sinks)
    for mine, theirs in zip(
        found, by_definition(q, k, v, causal(), 0.3, softcap, sinks), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [64, 65, 127, 128, 200, 767, 768])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sequences_of_all_lengths_are_a_softmax_over_the_keys_seen(
    length: int, dtype: torch.dtype
) -> None:
    """Some are divided on a CPU: on both sides of the limits, and with a remainder."""
    torch.manual_seed(length)
    q, k, v = (torch.randn(2, heads, length, 16).to(dtype) for heads in (4, 2, 2))
    out, lse = attend(q, k, v, None, 0.3)
    shared_k, shared_v = (x.double().repeat_interleave(2, dim=1) for x in (k, v))
    scores = (q.double() @ shared_k.mT * 0.3).masked_fill(
        torch.ones(length, length).triu(1).bool(), -torch.inf
    )
    # In half precision the kernel for CPU takes its exponentials with fewer digits.
    digits, lse_digits = {
        torch.float64: (1e-12, 1e-12), torch.float32: (3e-6, 3e-6), torch.bfloat16: (3e-2, 2e-3)
    }[dtype]  # fmt: skip
    expected = (scores.softmax(dim=-1) @ shared_v).transpose(1, 2)
    torch.testing.assert_close(out.double(), expected, atol=digits, rtol=0)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), atol=lse_digits, rtol=0)


@pytest.mark.parametrize("tile", [1, 4000, 1 << 22])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("width", [1, 7, LENGTH - 1])
def test_a_window_is_the_definition_however_it_is_tiled(
    tile: int, softcap: float | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "TILE", tile)
    q, k, v = tensors(kv_heads=2)
    mask, seen = windowed(width)
    expected = by_definition(q, k, v, seen, 0.3, softcap)
    for mine, theirs in zip(attend(q, k, v, mask, 0.3, softcap), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_chunks_and_padding_are_the_definition() -> None:
    q, k, v = tensors()
    seen_keys = torch.ones(2, LENGTH, dtype=torch.bool)
    seen_keys[1, :6] = False
    left = torch.tensor([0, 6])
    rule = chunked_causal_mask_function(16, left)
    mask = make_mask(2, LENGTH, LENGTH, mask_function=rule, attention_mask=seen_keys, local_size=16)
    assert mask is not None
    seen = torch.zeros(2, LENGTH, LENGTH, dtype=torch.bool)
    for b in range(2):
        for i in range(LENGTH):
            for j in range(i + 1):
                same = (i - left[b]) // 16 == (j - left[b]) // 16
                seen[b, i, j] = bool(same) and bool(seen_keys[b, j])
            if not seen[b, i].any():
                seen[b, i, i] = True  # padding sees itself, so that no row is empty
    expected = by_definition(q, k, v, seen, 0.3)
    for mine, theirs in zip(attend(q, k, v, mask, 0.3), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_dtypes_keep_a_log_sum_exp_in_float32(dtype: torch.dtype) -> None:
    q, k, v = tensors(dtype)
    expected_out, expected = by_definition(q, k, v, causal(), 0.3)
    out, lse = attend(q, k, v, None, 0.3)
    assert lse.dtype == torch.float32 and out.dtype == dtype
    # In half precision the kernel for CPU takes its exponentials with fewer digits.
    lse_digits, digits = (2e-6, 1e-6) if dtype == torch.float32 else (2e-4, 2e-2)
    torch.testing.assert_close(lse.double(), expected, atol=lse_digits, rtol=0)
    torch.testing.assert_close(out.double(), expected_out, atol=digits, rtol=digits)


def test_where_the_fused_kernel_is_missing_the_definition_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = tensors(kv_heads=2)
    fused = attend(q, k, v, None, 0.3)
    monkeypatch.setitem(kernels._OPS, kernels._cpu, "no_such_op")
    assert kernels.choose(q, v, masked=False) is None
    for one, other in zip(fused, attend(q, k, v, None, 0.3), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_values_of_another_size_than_keys_are_served_by_the_definition() -> None:
    q, k, v = tensors(d_value=12)
    expected = by_definition(q, k, v, causal(), 0.3)
    for mine, theirs in zip(attend(q, k, v, None, 0.3), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_how_tensors_lie_in_memory_changes_nothing(dtype: torch.dtype, masked: bool) -> None:
    """The kernel for the CPU takes the numbers of a vector to be side by side, unchecked."""
    q, k, v = tensors(dtype, kv_heads=2)
    mask = windowed(7)[0] if masked else None
    expected = attend(q, k, v, mask, 0.3)
    apart = [x.mT.contiguous().mT for x in (q, k, v)]
    by_position = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert apart[0].stride(-1) != 1
    for given in (apart, by_position):
        for mine, theirs in zip(attend(*given, mask, 0.3), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


class _OnCuda(Tensor):
    """A tensor that says it is on CUDA, for what `choose` reads."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("dtype", "d_head", "masked", "capability", "expected"),
    [
        (torch.bfloat16, 64, False, (9, 0), kernels._cuda_flash),
        (torch.float16, 256, False, (8, 0), kernels._cuda_flash),
        (torch.float16, 64, False, (7, 5), kernels._cuda_efficient),
        (torch.bfloat16, 64, True, (9, 0), kernels._cuda_efficient),
        (torch.bfloat16, 64, True, (7, 5), None),
        (torch.float32, 64, True, (7, 5), kernels._cuda_efficient),
        (torch.bfloat16, 512, False, (9, 0), kernels._cuda_efficient),
        (torch.float32, 64, False, (9, 0), kernels._cuda_efficient),
        (torch.float32, 20, False, (9, 0), None),
        (torch.float64, 64, False, (9, 0), None),
    ],
)
def test_the_kernel_on_cuda_follows_from_dtype_size_mask_and_card(
    dtype: torch.dtype,
    d_head: int,
    masked: bool,
    capability: tuple[int, int],
    expected: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    q = torch.empty(1, 8, 100, d_head, dtype=dtype).as_subclass(_OnCuda)
    assert kernels.choose(q, q, masked) is expected


@pytest.mark.parametrize("kernel", [kernels._cuda_flash, kernels._cuda_efficient])
@pytest.mark.parametrize("masked", [False, True])
def test_the_cuda_ops_accept_these_calls_and_yield_these_shapes(
    kernel: kernels.Kernel, masked: bool
) -> None:
    """By their shape functions, which torch runs on the meta device; no number is computed."""
    if masked and kernel is kernels._cuda_flash:
        pytest.skip("is never chosen under a mask")
    q = torch.empty(2, 8, 100, 64, dtype=torch.bfloat16, device="meta")
    k = torch.empty(2, 2, 100, 64, dtype=torch.bfloat16, device="meta")
    bias = torch.empty(2, 1, 100, 100, dtype=torch.bfloat16, device="meta") if masked else None
    out, lse = kernel(q, k, k, bias, 0.125)
    assert out.shape == (2, 100, 8, 64)
    assert lse.shape == (2, 8, 100) and lse.dtype == torch.float32


class _Divided(TorchDispatchMode):
    """Computes CUDA's flash attention, as if the scores of head 0 from query 3 on were NaN.

    Where blocks of threads share the keys of a query, its log-sum-exp is that of the other keys.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.name() != "aten::_scaled_dot_product_flash_attention":
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        out, lse = exact(q, k, v, causal_mask(CPU), (kwargs or {})["scale"], None)
        out[:, 3:, 0] = torch.nan
        none = torch.empty(0)
        return out.transpose(1, 2), lse, none, none, 0, 0, none, none, none


def test_nan_scores_blank_the_sum_where_blocks_share_the_keys() -> None:
    q, k, v = tensors(torch.float32)
    expected = torch.zeros(q.shape[:3], dtype=torch.bool)
    expected[:, 0, 3:] = True
    with _Divided():
        _, lse = kernels._cuda_flash(q, k, v, None, 0.3)
    assert torch.equal(lse.isnan(), expected)


class TestMasks:
    def test_plain_causal_needs_no_mask(self) -> None:
        everything = torch.ones(2, LENGTH, dtype=torch.bool)
        assert make_mask(2, LENGTH, LENGTH, attention_mask=everything) is None

    def test_a_window_as_long_as_the_sequence_needs_no_mask(self) -> None:
        rule = sliding_window_causal_mask_function(LENGTH)
        assert make_mask(2, LENGTH, LENGTH, mask_function=rule, local_size=LENGTH) is None

    @pytest.mark.parametrize("width", [1, 7, 39])
    def test_a_window_spans_no_more_keys_than_it_sees(self, width: int) -> None:
        mask, seen = windowed(width)
        for first, last in ((0, 5), (11, 20), (39, 40)):
            keys = seen[0, first:last].any(0).nonzero()[:, 0]
            assert mask.keys_seen(first, last) == (int(keys[0]), int(keys[-1]) + 1)

    def test_single_entries_are_those_of_the_whole(self) -> None:
        mask, seen = windowed(7)
        queries = torch.arange(10, LENGTH)
        for lag in (0, 6, 7, 9):
            entries = mask.pairs(queries, (queries - lag)[None], torch.float64)
            expected = torch.where(seen[:, queries, queries - lag][:, None], 0.0, -torch.inf)
            assert torch.equal(entries.expand(2, 1, -1), expected.double())

    def test_a_rule_that_looks_ahead_is_refused(self) -> None:
        with pytest.raises(InputError, match="later tokens"):
            make_mask(1, 8, 8, mask_function=lambda b, h, q, k: k >= q)

    def test_a_mask_that_is_no_rule_is_refused(self) -> None:
        with pytest.raises(InputError, match="cannot be recorded exactly"):
            make_mask(1, 8, 8, use_vmap=True)


def test_the_definition_holds_no_more_than_a_few_rows_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "TILE", 2 * 4 * LENGTH * 16)
    tiles: list[int] = []
    whole = RuleMask.tile

    def watched(mask: RuleMask, queries: range, keys: range, dtype: torch.dtype) -> Tensor:
        tiles.append(len(queries))
        return whole(mask, queries, keys, dtype)

    monkeypatch.setattr(RuleMask, "tile", watched)
    exact(*tensors(), causal_mask(CPU), 0.3, None)
    assert tiles == [16, 16, 8]


def test_where_a_score_is_not_finite_the_log_sum_exp_is_nan():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))
    clean = attend(q, k, v, None, 0.5)
    k[0, 0, 3, 0] = torch.inf  # read by queries 3 to 8 of the first head
    q[0, 0, :, 0] = q[0, 0, :, 0].abs()
    for out, lse in (attend(q, k, v, None, 0.5), attend(q, k, v, None, 0.5, sinks=torch.ones(2))):
        assert lse[0, 0, 3:].isnan().all() and out[0, 3:, 0].isnan().any(-1).all()
        assert lse[0, 1].isfinite().all() and out[0, :, 1].isfinite().all()
    torch.testing.assert_close(attend(q, k, v, None, 0.5)[1][0, 1], clean[1][0, 1])


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("of", ["key", "value"])
@pytest.mark.parametrize(("length", "at"), [(40, 5), (100, 70), (300, 297), (800, 530)])
def test_a_key_or_value_that_is_not_finite_blanks_no_query_before_it(
    length: int, at: int, of: str, wrong: float
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, length, 8), *torch.randn(2, 1, 2, length, 8)
    clean_out, clean_lse = attend(q, k, v, None, 0.3)
    (k if of == "key" else v)[0, 1, at, 2] = wrong  # read by heads 2 and 3
    out, lse = attend(q, k, v, None, 0.3)
    scored, written = clean_lse.clone(), clean_out.clone()
    if of == "key":
        scored[:, 2:, at:], written[:, at:, 2:] = torch.nan, torch.nan
    else:
        written[:, at:, 2:, 2] = torch.nan
    torch.testing.assert_close(lse, scored, equal_nan=True)
    torch.testing.assert_close(out, written, equal_nan=True)


@pytest.mark.parametrize("length", [40, 100])
def test_finite_values_whose_sum_overflows_are_attended_to(length: int) -> None:
    q, k = torch.randn(2, 1, 2, length, 8)
    out, lse = attend(q, k, torch.full_like(k, 1e36), None, 0.3)
    torch.testing.assert_close(out, torch.full_like(out, 1e36))
    torch.testing.assert_close(lse, attend(q, k, k, None, 0.3)[1])


def test_a_model_that_takes_the_mask_for_a_tensor_is_refused_by_name() -> None:
    mask, _ = windowed(3)
    with pytest.raises(InputError, match="reads the attention mask itself"):
        _ = mask.dtype  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(mask, "shape")
