"""Part `swap`: a checkpoint is copied to the GPU while it computes the one before.

The same checkpoints, of the shape of pythia-160m, go three ways: read, copied and computed one
after another; read while the one before is computed, and copied when it is their turn; read and
copied while the one before is computed, as workers do.
"""

import gc
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from pipeline.engine.forward import run as run_pass
from pipeline.engine.record import Pass
from pipeline.models.resident import Resident
from pipeline.models.transfer import CopiedAhead, Transfer
from pipeline.models.weights import Weights, read_weights
from tests.benchmarks.contenders import Bench, Shape
from tests.gpu.report import Report

SHAPE, SMALL = Shape(12, 768, 12, 16, 1024), Shape(2, 64, 4, 2, 64, vocabulary=512)
FILES, STEPS = 3, 6  # each file is read twice: the second time from the system's cache
# Sets of weights: one more, and of files in half precision the largest tensor once in their dtype.
MORE_MEMORY = 1.25
WAYS = ("one after another", "read ahead", "copied ahead")


@dataclass
class Timed:
    """Seconds of one way, in all and for each checkpoint's swap, and the losses of each."""

    seconds: float = 0.0
    swaps: list[float] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A model on a device, with files of checkpoints and an input."""

    bench: Bench
    folders: list[Path]
    device: torch.device
    passes: int = 1  # over the input, for each checkpoint

    @property
    def resident(self) -> Resident:
        return self.bench.resident

    @property
    def bytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in self.resident.module.parameters())

    def losses(self) -> Tensor:
        wanted = Pass(self.bench.input.name, losses=True)
        all_equal = [
            run_pass(self.resident, self.bench.input, wanted).kept_loss for _ in range(self.passes)
        ]
        return all_equal[-1]

    def go(self, way: str, steps: int, reserve: int = 0) -> Timed:
        """Read, copy and compute checkpoints in one of the ways."""
        sender = Transfer(self.device, reserve) if way == WAYS[2] else None

        def loaded(step: int) -> Weights:
            weights = read_weights(self.folders[step % len(self.folders)])
            return sender.ahead(weights, self.resident.dtypes(weights)) if sender else weights

        found, began = Timed(), time.perf_counter()
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(loaded, 0)
            for step in range(steps):
                found.swaps.append(self._swap(coming.result(), sender))
                is_last = step + 1 == steps
                if way != WAYS[0] and not is_last:
                    coming = reader.submit(loaded, step + 1)
                found.losses.append(self.losses())
                if way == WAYS[0] and not is_last:
                    coming = reader.submit(loaded, step + 1)
        found.seconds = time.perf_counter() - began
        return found

    def _swap(self, weights: Weights, sender: Transfer | None) -> float:
        """Put weights into the model; return the seconds that it took."""
        started = time.perf_counter()
        if sender:
            sender.await_copies(weights)
        self.resident.swap(weights)
        synchronise(self.device)
        return time.perf_counter() - started

    def calibrated(self) -> "Case":
        """Return the case with as many passes as take longer than reading and copying."""
        self.losses()
        started = time.perf_counter()
        weights = read_weights(self.folders[0])
        self.resident.swap(weights)
        synchronise(self.device)
        read = time.perf_counter()
        self.losses()
        passes = math.ceil(1.5 * (read - started) / (time.perf_counter() - read))
        return replace(self, passes=max(1, passes))


def run(report: Report) -> None:
    """Run the part."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for files in ("float32", "bfloat16"):
        report.attempt(f"files of {files}", partial(of_files, report, files), needed=20)
        gc.collect()


def of_files(report: Report, files: str) -> None:
    """Compare the ways on files of a dtype."""
    with tempfile.TemporaryDirectory() as folder:
        case = made(report, Path(folder), files)
        compare(report, case, files)
        without_memory(report, case, files)
        moved_to_main_memory(report, case, files)


def made(report: Report, folder: Path, files: str) -> Case:
    """Write checkpoints with random weights."""
    bench = Bench(SMALL if report.small else SHAPE, report.device, "float32")
    folders = []
    for i in range(2 if report.small else FILES):
        torch.manual_seed(i)
        own = bench.resident.module.state_dict()
        state = {name: (torch.randn_like(one) * 0.02).to(getattr(torch, files)).cpu()
                 for name, one in own.items()}  # fmt: skip
        folders.append(folder / str(i))
        folders[-1].mkdir()
        safetensors.torch.save_file(state, folders[-1] / "model.safetensors")
    return Case(bench, folders, torch.device(report.device)).calibrated()


def compare(report: Report, case: Case, files: str) -> None:
    """Compare times, numbers and memory of the ways."""
    steps, cuda = (4 if report.small else STEPS), report.device == "cuda"
    report.figure("passes_per_checkpoint", case.passes, files=files)
    case.go(WAYS[2], 2)  # kernels are loaded, and files come into the system's cache
    found: dict[str, Timed] = {}
    peaks: dict[str, int] = {}
    for way in WAYS:
        with peak_of(cuda) as peak:
            found[way] = case.go(way, steps)
        peaks[way] = peak[0]
        report.figure("seconds_per_checkpoint", found[way].seconds / steps, "s", way=way,
                      files=files)  # fmt: skip
        report.figure("seconds_of_swap", median(found[way].swaps), "s", way=way, files=files)
    first = found[WAYS[0]].losses
    for way in WAYS[1:]:
        worst = difference(found[way].losses, first)
        report.figure("largest_difference", worst, "nats", at_most=0, way=way, files=files)
    report.figure("finite", all(bool(one.isfinite().all()) for one in first), at_least=1,
                  files=files)  # fmt: skip
    if not cuda:
        report.skip(f"copying, memory, streams: files of {files}", "there is no device to copy to")
        return
    direct, ahead = median(found[WAYS[1]].swaps), median(found[WAYS[2]].swaps)
    report.figure("share_of_copying_hidden", 1 - ahead / direct, files=files)
    for way in WAYS:
        report.figure("peak_memory", peaks[way] / case.bytes, "sets of weights", way=way)
    more = (peaks[WAYS[2]] - peaks[WAYS[1]]) / case.bytes
    report.figure("memory_for_copying_ahead", more, "sets of weights", at_most=MORE_MEMORY,
                  files=files)  # fmt: skip
    copying_beside_kernels(report, case, files)


def copying_beside_kernels(report: Report, case: Case, files: str) -> None:
    """Show in a profile that copies ran while kernels did."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        case.go(WAYS[2], 3)
    events = profiled.events()
    assert events is not None
    copies, kernels = intervals(events, copies=True), intervals(events, copies=False)
    if not copies:
        report.fail("copying_beside_kernels", "the profile has no copies to the device")
        return
    seconds = sum(end - start for start, end in copies)
    report.figure("share_of_copying_beside_kernels", overlap(copies, kernels) / seconds,
                  at_least=0.05, files=files)  # fmt: skip
    report.figure("copying", seconds / 3 / 1e6, "s per checkpoint", files=files)


def without_memory(report: Report, case: Case, files: str) -> None:
    """Check that weights are copied at their turn where there is no memory for a second set."""
    expected = case.go(WAYS[0], 2).losses
    if report.device == "cuda":
        worst = difference(case.go(WAYS[2], 2, reserve=1 << 60).losses, expected)
        report.figure("largest_difference", worst, "nats", at_most=0, way="no room", files=files)
        memory_runs_out(report, case, files)
    else:
        report.skip(
            f"memory that runs out: files of {files}", "the limit is one of CUDA's allocator"
        )


def memory_runs_out(report: Report, case: Case, files: str) -> None:
    """Copy ahead where CUDA's allocator may take half a set of weights more, and no more."""
    weights = read_weights(case.folders[0])
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    allowed = (torch.cuda.memory_reserved() + case.bytes // 2) / total
    torch.cuda.set_per_process_memory_fraction(allowed)
    logging.disable(logging.WARNING)  # the warning is what is expected here
    try:
        kept = Transfer(case.device, 0).ahead(weights, case.resident.dtypes(weights))
    finally:
        logging.disable(logging.NOTSET)
        torch.cuda.set_per_process_memory_fraction(1.0)
    report.figure("stays_when_memory_runs_out", not isinstance(kept, CopiedAhead), at_least=1,
                  files=files)  # fmt: skip
    case.resident.swap(kept)
    worst = difference([case.losses()], case.go(WAYS[0], 1).losses)
    report.figure("largest_difference", worst, "nats", at_most=0, way="memory ran out",
                  files=files)  # fmt: skip


def moved_to_main_memory(report: Report, case: Case, files: str) -> None:
    """Free what was copied ahead, and compare the numbers that it then gives."""
    weights, sender = read_weights(case.folders[0]), Transfer(case.device, 0)
    copied = sender.ahead(weights, case.resident.dtypes(weights))
    if report.device == "cuda":
        held = torch.cuda.memory_allocated()
        sender.free("to see what that frees")
        freed = (held - torch.cuda.memory_allocated()) / case.bytes
        report.figure("freed", freed, "sets of weights", at_least=0.99, files=files)
    sender.free("to compare numbers")
    case.resident.swap(copied)
    worst = difference([case.losses()], case.go(WAYS[0], 1).losses)
    report.figure("largest_difference", worst, "nats", at_most=0, way="freed", files=files)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference; NaN if there is one."""
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())


@contextmanager
def peak_of(cuda: bool) -> Iterator[list[int]]:
    """Yield a list that afterwards holds the most bytes that were allocated on the GPU."""
    peak: list[int] = []
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    yield peak
    peak.append(torch.cuda.max_memory_allocated() if cuda else 0)


def intervals(events: EventList, copies: bool) -> list[tuple[float, float]]:
    """Return beginning and end, in microseconds, of copies to the device or of kernels."""
    found = []
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        is_copy = "Memcpy HtoD" in event.name
        if is_copy if copies else not event.name.startswith(("Memcpy", "Memset")):
            found.append((event.time_range.start, event.time_range.end))
    return sorted(found)


def overlap(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> float:
    """Return for how long one of `some` runs beside one of `others`; none overlap themselves."""
    total, first = 0.0, 0
    for start, end in some:
        while first < len(others) and others[first][1] <= start:
            first += 1
        for other_start, other_end in others[first:]:
            if other_start >= end:
                break
            total += min(end, other_end) - max(start, other_start)
    return total


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def median(values: list[float]) -> float:
    """Return the median, without the first, of whose weights nothing was hidden."""
    return sorted(values[1:])[len(values[1:]) // 2]
