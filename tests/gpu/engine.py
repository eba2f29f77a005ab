"""Part `engine`: the cost of losses and head scores on a GPU, beside other ways to have them."""

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.contenders import Bench, Shape, errors
from tests.benchmarks.engine import NOT_INSTALLED, interleaved, median_ratio, timed
from tests.gpu.report import Report

# The most valuable first: what does not fit into the time is skipped. 16,384 tokens fill a card.
SHAPES = {
    "70m": Shape(6, 512, 8, 16, 1024),
    "410m": Shape(24, 1024, 16, 16, 1024),
    "160m": Shape(12, 768, 12, 16, 1024),
    "1.4b": Shape(24, 2048, 16, 16, 1024),
}
SMALL = {"70m": Shape(2, 64, 4, 2, 64, vocabulary=512)}
PROFILED, PROFILES = ("70m", "410m"), "profiles.txt"
DTYPES = ("float32", "bfloat16")
SECONDS = {"70m": 15, "160m": 15, "410m": 25, "1.4b": 45}  # that a shape usually takes
CONTENDERS = ("bare", "ontogeny", "matrices", "products", "transformerlens")
ROUNDS, SMALL_ROUNDS = 7, 3

# Against eager attention and the plain losses; in bfloat16 those round themselves.
MOST = {"float32": (1e-5, 2e-4), "bfloat16": (1e-2, 1e-1)}
GOALS = {"ratio": "at most 1.0", "memory_share": "at most 0.2"}


def run(report: Report) -> None:
    """Run the part."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    (report.out / PROFILES).unlink(missing_ok=True)  # of an earlier check
    card = {dtype: Card(report, dtype) for dtype in DTYPES}
    for name, shape in (SMALL if report.small else SHAPES).items():
        for dtype in DTYPES:
            work = partial(compare, report, name, shape, dtype, card[dtype])
            report.attempt(f"{name} in {dtype}", work, needed=5 if report.small else SECONDS[name])
            gc.collect()
            if report.device == "cuda":
                torch.cuda.empty_cache()


class Card:
    """The limits of the device, measured in the same run: bytes and operations per second."""

    def __init__(self, report: Report, dtype: str) -> None:
        size, side = (1 << 24, 256) if report.small else (1 << 30, 8192)
        given: dict[str, Any] = {"device": report.device, "dtype": getattr(torch, dtype)}
        a, b = torch.randn(side, side, **given), torch.randn(side, side, **given)
        source = torch.zeros(size, dtype=torch.uint8, device=report.device)
        target = torch.empty_like(source)
        product = best(lambda: a @ b, report.device)
        copy = best(lambda: target.copy_(source), report.device)
        self.flops, self.bandwidth = 2 * side**3 / product, 2 * size / copy
        report.figure("measured_peak", self.flops / 1e12, "TFLOP/s", dtype=dtype, side=side)
        report.figure("measured_bandwidth", self.bandwidth / 1e9, "GB/s", dtype=dtype)


def best(work: Callable[[], object], device: str) -> float:
    """Return the fewest seconds of ten calls; each is long enough for the wall clock."""
    return min(timed(work, device) for _ in range(10))


def compare(report: Report, name: str, shape: Shape, dtype: str, card: Card) -> None:
    """Compare the contenders on one shape."""
    labels: dict[str, Any] = {"shape": name, "dtype": dtype}
    bench = Bench(shape, report.device, dtype)
    contenders = built(report, bench, labels)
    if "bare" not in contenders or "ontogeny" not in contenders:
        report.fail(f"{name} in {dtype}", "the engine or the plain forward pass does not fit")
        return
    with torch.inference_mode():
        check_numbers(report, contenders, labels)
    peaks = {one: peak(report, work) for one, work in contenders.items()}
    times = interleaved(contenders, SMALL_ROUNDS if report.small else ROUNDS, report.device)
    work = flops(contenders["bare"]), least_bytes(bench)
    for one, seconds in times.items():
        mid, of = statistics.median(seconds), {**labels, "contender": one}
        goal = {**of, "goal": GOALS["ratio"]} if one == "ontogeny" else of
        report.figure("ratio", median_ratio(seconds, times["bare"]), "of bare", **goal)
        report.figure("seconds_of_a_pass", mid, "s", **of)
        report.figure("tokens_per_second", bench.tokens.numel() / mid, "1/s", **of)
        report.figure("share_of_peak", work[0] / mid / card.flops, **of)
        report.figure("share_of_bandwidth", work[1] / mid / card.bandwidth, **of)
        if report.device == "cuda":
            report.figure("peak_memory", peaks[one] / 1e6, "MB above the model", **of)
    over = median_ratio(times["ontogeny"], times["products"]) if "products" in times else None
    if over is not None:
        report.figure("over_products", over, **labels)
    if report.device == "cuda":
        share = peaks["ontogeny"] / peaks["bare"]
        report.figure("memory_share", share, "of bare", goal=GOALS["memory_share"], **labels)
    else:
        report.skip(f"memory of {name} in {dtype}", "counted by CUDA's allocator only")
    if name in PROFILED:
        write_profile(report, contenders["ontogeny"], f"{name} in {dtype}")


def built(report: Report, bench: Bench, labels: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return the contenders that are installed and fit into memory; skip the others by name."""
    found: dict[str, Callable[[], Any]] = {}
    for name in CONTENDERS:
        what = f"{name}: {labels['shape']} in {labels['dtype']}"
        with skipped_without_memory(report, what):
            work = getattr(bench, name)()
            if work is None:
                report.skip(what, NOT_INSTALLED)
                continue
            work()
            found[name] = work
    return found


@contextmanager
def skipped_without_memory(report: Report, what: str) -> Iterator[None]:
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
    torch.cuda.empty_cache()
    report.skip(what, reason)


def check_numbers(
    report: Report, contenders: dict[str, Callable[[], Any]], labels: dict[str, Any]
) -> None:
    """Compare scores and losses with those of eager attention and of the plain forward pass."""
    score_limit, loss_limit = MOST[labels["dtype"]]
    mine, bare = contenders["ontogeny"](), contenders["bare"]()
    loss = float((mine[0] - bare.cpu()).abs().max())
    report.figure("largest_loss_error", loss, "nats", at_most=loss_limit, **labels)
    if "matrices" in contenders:
        found = errors(mine, contenders["matrices"](), bare)
        report.figure("largest_score_error", found["max_score_error"], at_most=score_limit,
                      **labels)  # fmt: skip


def peak(report: Report, work: Callable[[], object]) -> int:
    """Return the most bytes above what is allocated now, of which the model is a part."""
    if report.device != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    timed(work, report.device)
    return torch.cuda.max_memory_allocated() - before


def flops(bare: Callable[[], object]) -> int:
    """Return the operations of a plain forward pass; attention counts without causality."""
    with FlopCounterMode(display=False) as counter:
        bare()
    return counter.get_total_flops()


def least_bytes(bench: Bench) -> int:
    """Return the bytes that linear maps must move: weights, inputs and outputs, each once.

    Of the unembedding's outputs, the logits, none must be moved.
    """
    total, module = 0, bench.model("sdpa")
    last = module.get_output_embeddings()

    def count(part: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal total
        numbers = sum(one.numel() for one in part.parameters()) + args[0].numel()
        total += (numbers + (0 if part is last else output.numel())) * output.element_size()

    handles = [part.register_forward_hook(count) for part in module.modules()
               if isinstance(part, nn.Linear)]  # fmt: skip
    with torch.inference_mode():
        module(bench.tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return total


def write_profile(report: Report, work: Callable[[], object], title: str) -> None:
    """Append the kernels that take most of the time of two calls to a file of all profiles."""
    cuda = report.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        timed(work, report.device)
        timed(work, report.device)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = profiled.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=90)
    with (report.out / PROFILES).open("a") as file:
        print(f"{title}\n\n{table}\n", file=file)
