"""Every attention kernel that `choose` picks on the device, against float64 on the CPU.

Outputs, log-sum-exps and recorded pairs are compared with the definition on the same (rounded)
numbers. Errors are in units of a dtype's epsilon: outputs in that of the dtype and of the largest
value, log-sum-exps and attention in that of float32 and of 1 + the largest score. Beside them are
the errors of torch's own `scaled_dot_product_attention` on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engine import kernels
from pipeline.engine.pairs import Pairs
from pipeline.engine.recorder import Scored
from tests.gpu import attention_cases as made
from tests.gpu.attention_cases import Case
from tests.gpu.comparing import worst_of
from tests.gpu.definition import Seen, attention, probabilities, scores
from tests.gpu.report import Report
from tests.gpu.worst import Worst

# Limits in the units of the docstring. An output rounds the attention and itself, and with a sink
# once more; float32's sums round often, and the errors of scores, which are larger than 1, count.
LIMITS = {"output": 3.0, "output float32": 16.0, "log-sum-exp": 8.0, "attention": 16.0}
# The CPU's kernel takes the exponentials of half precision with fewer digits.
CPU_HALF = 2000.0
PEER = 2.0  # our largest error is at most so many times that of torch's own, or epsilon
# Without cuDNN's, which compiles each shape that it meets, and refuses some.
PEERS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LONGEST_MASK = 4096  # of the whole masks that torch's own attention takes
ROWS = 200  # queries that are compared, of those of long sequences
NAMES = {kernels._cpu: "cpu", kernels._cuda_flash: "flash", kernels._cuda_efficient: "efficient"}


def run(report: Report) -> None:
    """Check all cases of `attention_cases`, and what happens to scores that are not finite."""
    _settings(report)
    by_family: dict[str, list[Case]] = {}
    for case in made.cases(report.small):
        by_family.setdefault(case.family, []).append(case)
    with torch.inference_mode():
        for family, cases in by_family.items():
            _family(report, family, cases)
        for dtype in made.DTYPES:
            report.attempt(f"not finite, {_name(dtype)}", partial(_not_finite, report, dtype))


def _family(report: Report, family: str, cases: list[Case]) -> None:
    worst, errors = Worst(report), set()
    for i, case in enumerate(cases):
        if report.out_of_time():
            report.skip(f"{len(cases) - i} of {len(cases)} cases of {family}", "out of time")
            break
        for dtype in case.dtypes:
            try:
                _check(report, worst, case, dtype)
            except Exception as error:
                if (why := f"{error!r}"[:1000]) not in errors:  # once for all such cases
                    report.fail(f"{family}, {dtype}: {case}", why)
                    errors.add(why)
                if report.device == "cuda":
                    torch.cuda.synchronize()  # raises where the context is lost
    worst.print()


def _settings(report: Report) -> None:
    precision = torch.get_float32_matmul_precision()
    report.figure("products of float32 in full", precision == "highest", at_least=1)
    wanted = ("cpu",) if report.device == "cpu" else ("flash", "efficient")
    for kernel, name in NAMES.items():
        if name in wanted and not hasattr(torch.ops.aten, op := kernels._OPS[kernel]):
            report.fail(f"kernel {name}", f"this torch has no torch.ops.aten.{op}")


def _check(report: Report, worst: Worst, case: Case, dtype: torch.dtype) -> None:
    q, k, v = made.tensors(case, dtype)
    mask, seen = made.mask_of(case, report.device)
    sinks = torch.linspace(-2, 6, case.heads).to(dtype) if case.sinks else None
    scale = case.d_head**-0.5
    there = [made.laid_out(x.to(report.device), case.layout) for x in (q, k, v)]
    with _tiles(case.tile), _Calls() as calls:
        out, lse = kernels.attend(
            *there, mask, scale, case.softcap, None if sinks is None else sinks.to(report.device)
        )
    kernel = made.expected_kernel(case, dtype, report.device)
    if calls.kernel != kernel:
        report.fail(f"kernel of {case.family}, {dtype}: {case}", f"{calls.kernel}, not {kernel}")
    rows = _rows(case.length)
    at = {"case": str(case)}
    expected, sums, largest = attention(q, k, v, rows, seen, scale, case.softcap, sinks)
    eps, top = torch.finfo(dtype).eps, float(v.double().abs().max())
    narrow = dtype in made.HALF
    labels = {"kernel": kernel, "dtype": _name(dtype), "family": case.family}
    unit = eps * top * (1 if narrow else 1 + largest)
    error = _largest(out.cpu()[:, rows], expected)
    limit = LIMITS["output" if narrow else "output float32"]
    worst.add("output", error / unit, limit, labels, at)
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    coarse = CPU_HALF if narrow and kernel == "cpu" else 1.0
    unit_of_lse = wide * (1 + largest) * coarse
    of_lse = _largest(lse.cpu()[..., rows], sums) / unit_of_lse
    # Tensor cores truncate their sums, so that errors grow with the number of products.
    longer = max(1.0, case.d_head / 64)
    worst.add("log-sum-exp", of_lse, longer * LIMITS["log-sum-exp"], labels, at)
    finite = bool(out.isfinite().all() & lse.isfinite().all())
    worst.add("not finite", float(not finite), 0.0, labels, at)
    recorded = Scored(there[0], there[1], lse, scale, case.softcap, mask)
    found = scores(q, k, rows, seen, scale, case.softcap)
    of_pairs = _pairs_error(recorded, rows, found, sums, seen, report.device) / unit_of_lse
    worst.add("attention", of_pairs, longer * LIMITS["attention"], labels, at)
    if not case.softcap and sinks is None and not (case.masked and case.length > LONGEST_MASK):
        peer = _largest(_peer(*there, case, seen, scale).cpu()[:, rows], expected)
        worst.add("times the error of torch's own", error / max(peer, unit), PEER, labels, at)


def _rows(length: int) -> Tensor:
    """Return queries to compare: all of a short sequence, else both ends and others at random."""
    if length <= 2 * ROWS:
        return torch.arange(length)
    random = torch.Generator().manual_seed(length)
    some = torch.randperm(length, generator=random)[:ROWS]
    ends = torch.cat([torch.arange(33), torch.arange(length - 33, length)])
    return torch.cat([some, ends]).unique()


def _pairs_error(
    recorded: Scored, rows: Tensor, found: Tensor, sums: Tensor, seen: Seen, device: str
) -> float:
    """Return the largest error of attention at lags, at the first key, and at random keys."""
    length, batch = recorded.length, found.shape[0]
    random = torch.Generator().manual_seed(0)
    any_key = (torch.rand(batch, length, generator=random) * torch.arange(1, length + 1)).long()
    requests = [Pairs(first=0, key=0), Pairs(first=0, index=any_key)]
    requests += [Pairs(first=lag, lag=lag) for lag in (0, 1, 7) if lag < length]
    errors = []
    for pairs in requests:
        keys = pairs.keys(length, slice(0, batch), torch.device(device))
        p = recorded.probabilities(pairs, keys)
        own = rows[rows >= pairs.first]
        of_rows = keys.cpu().expand(batch, -1)[:, own - pairs.first]
        kept = slice(len(rows) - len(own), None)
        expected = probabilities(found[:, :, kept], sums[..., kept], of_rows)
        # Padding, which the definition lets see itself, is blank in records.
        read = seen(torch.arange(batch)[:, None], own[None], of_rows)
        expected = expected.where(read[:, None], 0)
        errors.append(_largest(p.cpu()[..., own - pairs.first], expected))
    return worst_of(errors)


def _peer(q: Tensor, k: Tensor, v: Tensor, case: Case, seen: Seen, scale: float) -> Tensor:
    """Return the output of torch's own attention [batch, position, head, d]."""
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, dim=1) for x in (k, v))
    mask = None
    if case.masked:
        at = torch.arange(case.length)
        whole = seen(torch.arange(case.batch)[:, None, None], at[:, None], at[None])
        whole = whole | (~whole.any(-1, keepdim=True) & torch.eye(case.length, dtype=torch.bool))
        mask = whole[:, None].to(q.device)
    with sdpa_kernel(PEERS):
        out = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2)


def _not_finite(report: Report, dtype: torch.dtype) -> None:
    """Check that an infinite key blanks the queries that read it, and no other head's."""
    # Of 1,000 keys, CUDA's flash attention divides those of a query among blocks of threads.
    cases = (Case("not finite", 40), Case("not finite", 40, window=39), Case("not finite", 1000))
    for case in cases:
        q, k, v = made.tensors(case, dtype)
        clean = [x.clone() for x in (q, k, v)]
        q[0, 0, :, 0] = q[0, 0, :, 0].abs() + 0.1
        k[0, 0, 3, 0] = torch.inf
        mask, _ = made.mask_of(case, report.device)
        out, lse = kernels.attend(*(x.to(report.device) for x in (q, k, v)), mask, 0.5)
        _, plain = kernels.attend(*(x.to(report.device) for x in clean), mask, 0.5)
        hit = lse[0, 0, 3:].isnan().all()
        others = torch.equal(lse[0, 1:], plain[0, 1:]) and torch.equal(lse[1], plain[1])
        labels = {"kernel": made.expected_kernel(case, dtype, report.device), "dtype": _name(dtype)}
        name = "an infinite key blanks the queries of its head alone"
        labels |= {"masked": case.masked, "length": case.length}
        report.figure(name, bool(hit) and others, at_least=1, **labels)
        # The CPU's kernel for half precision yields numbers there, as torch's own attention does.
        blank = bool(out[0, 3:, 0].isnan().any(-1).all())
        report.figure("and their outputs", blank, **labels)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _largest(found: Tensor, expected: Tensor) -> float:
    # Of float64 on the CPU; NaN stays NaN, which is outside of every limit.
    return float((found.double() - expected).abs().max())


@contextmanager
def _tiles(entries: int | None) -> Iterator[None]:
    before = kernels.TILE
    kernels.TILE = entries or before
    try:
        yield
    finally:
        kernels.TILE = before


class _Calls(TorchDispatchMode):
    """Names the fused kernel that was called within the block; "exact" if none was."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = "exact"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        for kernel, op in kernels._OPS.items():
            if func.name() == f"aten::{op}":
                self.kernel = NAMES[kernel]
        return func(*args, **(kwargs or {}))
