"""Cost of losses and head scores together, relative to losses alone and to other methods.

    python tests/benchmarks/engine.py [--json] [--rounds 9] [--threads 2] [--shapes 70m 160m]
    python tests/benchmarks/engine.py --busy          beside another process that spins
    python tests/benchmarks/engine.py --long          4,096 to 16,384 tokens, the 70m shape
    python tests/benchmarks/engine.py --device cuda --dtype bfloat16

contenders.py describes the models and the methods, which run in a fresh order each round so that
all meet the same machine. Ratios are medians over rounds of seconds over those of `bare` in the
same round. Memory is the peak of the resident set above that of the idle model, each contender in a
process of its own.
"""

import argparse
import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

from tests.benchmarks.contenders import SHAPES, Bench, Shape, errors

NOT_INSTALLED = "not installed: see tests/benchmarks/requirements-transformerlens.txt"

# A process of its own that ends with the one that started it, however that ends.
_SPIN = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def spinning() -> Iterator[None]:
    """Keep one core busy with another process."""
    command = [sys.executable, "-c", _SPIN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it spins from now on
        try:
            yield
        finally:
            process.kill()


def timed(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(bench: Bench, rounds: int, busy: bool = False) -> dict[str, float]:
    """Return the median ratio of each method to `bare`, of `ontogeny` to `products`, and errors."""
    contenders: dict[str, Callable[[], object]] = {
        "bare": bench.bare(),
        "ontogeny": bench.ontogeny(),
        "matrices": bench.matrices(),
        "products": bench.products(),
    }
    bare = bench.bare()()
    found = errors(bench.ontogeny()(), bench.matrices()(), bare)
    if (lens := bench.transformerlens()) is not None:
        contenders["transformerlens"] = lens
        of_lens = errors(lens(), bench.matrices()(), bare)
        found |= {f"transformerlens_{name}": value for name, value in of_lens.items()}
    with spinning() if busy else nullcontext():
        times = interleaved(contenders, rounds, bench.device)
    for name, seconds in times.items():
        found[name] = median_ratio(seconds, times["bare"])
    found["over_products"] = median_ratio(times["ontogeny"], times["products"])
    found["seconds_bare"] = statistics.median(times["bare"])
    found["tokens_per_second"] = bench.tokens.numel() / statistics.median(times["ontogeny"])
    return found


def interleaved(
    contenders: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Return the seconds of each contender by round, after one call of each that does not count."""
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(timed(contenders[name], device))
    return times


def median_ratio(some: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def peak_of(contender: str, shape: str, options: argparse.Namespace) -> tuple[int, float]:
    """Return peak bytes above the idle model, and seconds, measured in a new process."""
    command = [
        sys.executable, __file__, "--peak", contender, "--shapes", shape,
        "--threads", str(options.threads), "--device", options.device, "--dtype", options.dtype,
    ]  # fmt: skip
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(out[-2]), float(out[-1])


def print_peak(contender: str, shape: str, options: argparse.Namespace) -> None:
    bench = Bench(SHAPES[shape], options.device, options.dtype)
    work = getattr(bench, contender)()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = timed(work, options.device)
        print(torch.cuda.max_memory_allocated() - before, seconds)
        return
    # Code and thread pools that any forward pass brings in are not what is compared.
    with torch.inference_mode():
        bench.resident.module(bench.tokens[:1, :8], use_cache=False)
    ctypes.CDLL(None).malloc_trim(0)  # what building left free is not the model's
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = _status("VmRSS")
    seconds = timed(work, options.device)
    print(_status("VmHWM") - before, seconds)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Print the tables; return what `--json` prints."""
    summary: dict[str, Any] = {"max_score_error": 0.0, "max_loss_error": 0.0}
    load = os.getloadavg()[0]
    for name in options.shapes:
        shape = SHAPES[name]
        found = compare(Bench(shape, options.device, options.dtype), options.rounds, options.busy)
        names = [c for c in ("bare", "ontogeny", "matrices", "transformerlens") if c in found]
        peaks = {c: peak_of(c, name, options)[0] for c in names}
        summary |= ratios(name + ("_busy" if options.busy else ""), found, peaks)
        for error in ("max_score_error", "max_loss_error"):
            summary[error] = max(summary[error], found[error])
        if not options.json:
            print_table(name, shape, found, peaks)
    machine = {
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    if not options.json:
        print(f"\n{machine['cores']} cores; load {load:.2f} before and ", end="")
        print(f"{machine['load_after']:.2f} after, which includes this benchmark")
    return summary | machine


def ratios(name: str, found: dict[str, float], peaks: dict[str, int]) -> dict[str, Any]:
    """Return the entries of one shape in what `--json` prints."""
    lens = found.get("transformerlens", NOT_INSTALLED)
    entries: dict[str, Any] = {
        f"ratio_{name}": found["ontogeny"],
        f"over_products_{name}": found["over_products"],
        f"memory_share_{name}": peaks["ontogeny"] / peaks["bare"],
        f"matrices_{name}": found["matrices"],
        f"products_{name}": found["products"],
        f"transformerlens_{name}": lens,
    }
    of_errors = {f"{key}_{name}": found[key] for key in found if "error" in key}
    return entries | of_errors


def print_table(name: str, shape: Shape, found: dict[str, float], peaks: dict[str, int]) -> None:
    print(f"\npythia-{name} shape, {shape.sequences} x {shape.length} tokens")
    print(f"(bare: {found['seconds_bare']:.3f} s; ontogeny: {found['tokens_per_second']:,.0f}")
    print("tokens per second)\n\n| | time | peak MB |\n|---|---|---|")
    for contender, peak in peaks.items():
        print(f"| {contender} | {found[contender]:.2f} | {peak / 1e6:.0f} |")
    print(f"| products | {found['products']:.2f} | |")
    if "transformerlens" not in found:
        print(f"\ntransformerlens is {NOT_INSTALLED}")
    print(f"\nontogeny over products: {found['over_products']:.2f}; largest errors: scores")
    print(f"{found['max_score_error']:.1e}, losses {found['max_loss_error']:.1e}")


def print_long(options: argparse.Namespace) -> None:
    """Print the cost of losses and head scores of one long sequence."""
    print("| tokens of one sequence | peak MB | KB per token | seconds |\n|---|---|---|---|")
    for name in ("70m-4096", "70m-8192", "70m-16384"):
        peak, seconds = peak_of("ontogeny", name, options)
        tokens = SHAPES[name].length
        print(f"| {tokens:,} | {peak / 1e6:.0f} | {peak / 1e3 / tokens:.0f} | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["70m", "160m"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--busy", action="store_true", help="beside a process that spins")
    parser.add_argument("--long", action="store_true", help="time and memory of long contexts")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(options.peak, options.shapes[0], options)
    elif options.long:
        print_long(options)
    else:
        summary = report(options)
        if options.json:
            print(json.dumps(summary))


if __name__ == "__main__":
    main()
