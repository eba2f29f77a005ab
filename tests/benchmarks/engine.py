"""Cost of losses and head scores together, relative to losses alone and to other methods.

    python tests/benchmarks/engine.py [--json] [--rounds 15] [--threads 2] [--shapes 70m 160m]
    python tests/benchmarks/engine.py --long          4,096 to 16,384 tokens, the 70m shape
    python tests/benchmarks/engine.py --device cuda --dtype bfloat16

Models of the shapes of pythia-70m and pythia-160m with random weights, on repeated random tokens.
Contenders, in a fresh order each round so that all meet the same machine:

    bare            the Hugging Face forward with SDPA, no cache, all logits, and the cross-entropy
                    of every token in float32: what anyone pays for the losses alone
    ontogeny        losses and the five scores of every head
    matrices        the same from eager attention with `output_attentions`
    products        the model's matrix products and fused attention alone, as torch computes them
    transformerlens patterns and losses, where it is installed (requirements-transformerlens.txt)

Ratios are medians over rounds of seconds over those of `bare` in the same round. Memory is the
peak of the resident set above that of the idle model, each contender in a process of its own.
"""

import argparse
import ctypes
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's tests are not installed

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.engine.forward import run
from pipeline.engine.record import Pass, merge
from pipeline.inputs import Input
from pipeline.measures.base import Context, Setting
from pipeline.measures.head_scores import HeadScores
from pipeline.models.resident import Resident
from tests.benchmarks.bare import bare, losses

SCORES = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")


@dataclass(frozen=True)
class Shape:
    """A model's shape and its input; blocks are half a sequence, without BOS."""

    layers: int
    d_model: int
    heads: int
    sequences: int
    length: int

    @property
    def config(self) -> GPTNeoXConfig:
        return GPTNeoXConfig(
            hidden_size=self.d_model,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.d_model,
            vocab_size=50304,
            max_position_embeddings=max(2048, self.length),
        )


SHAPES = {
    "70m": Shape(6, 512, 8, 4, 512),
    "160m": Shape(12, 768, 12, 2, 1024),
    "70m-4096": Shape(6, 512, 8, 1, 4096),
    "70m-8192": Shape(6, 512, 8, 1, 8192),
    "70m-16384": Shape(6, 512, 8, 1, 16384),
}


class Bench:
    """A shape with weights and tokens, and the methods that are compared on them."""

    def __init__(self, shape: Shape, device: str, dtype: str) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        torch.manual_seed(0)
        self.config = shape.config
        self.resident = Resident(self.config, device, dtype)
        state = AutoModelForCausalLM.from_config(self.config).state_dict()
        self.resident.swap(state)
        spec = RepeatedInput(
            block_length=shape.length // 2, repeats=2, sequences=shape.sequences, bos=False
        )
        self.input: Input = make_input("repeated", spec, "", self.resident.facts)
        self.tokens = torch.from_numpy(self.input.tokens).to(device)
        self.measure = HeadScores()
        self.setting = Setting(self.resident.facts, self.input)
        wanted = (Pass(self.input.name, losses=True), *self.measure.passes(self.setting))
        (self.wanted,) = merge(wanted)

    def model(self, attention: str) -> PreTrainedModel:
        """Return a second module with the same weights and another attention implementation."""
        model = AutoModelForCausalLM.from_config(
            deepcopy(self.config),  # which is told its attention path, and shared otherwise
            attn_implementation=attention,
            dtype=getattr(torch, self.dtype),
        )
        model.load_state_dict(self.resident.module.state_dict(), assign=True)
        return model.to(self.device).eval().requires_grad_(False)

    def ontogeny(self) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
        def compute() -> tuple[Tensor, dict[str, Tensor]]:
            record = run(self.resident, self.input, self.wanted)
            context = Context(self.setting, self.resident.weights, (record,))
            made = self.measure.compute(context)
            return record.kept_loss, {name: torch.as_tensor(made[name]) for name in SCORES}

        return compute

    def bare(self) -> Callable[[], Tensor]:
        return bare(self.model("sdpa"), self.tokens)

    def matrices(self) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
        model = self.model("eager")

        @torch.inference_mode()
        def compute() -> tuple[Tensor, dict[str, Tensor]]:
            out = model(self.tokens, use_cache=False, output_attentions=True)
            of_layers = [scores_of(matrix, self.shape.length // 2) for matrix in out.attentions]
            return losses(out.logits, self.tokens), stacked(of_layers)

        return compute

    def products(self) -> Callable[[], None]:
        """Compute only the matrix products and attention of a forward pass."""
        model, calls = self.model("sdpa"), []
        handles = [
            part.register_forward_pre_hook(lambda part, args: calls.append((part, args[0].shape)))
            for part in model.modules()
            if isinstance(part, nn.Linear)
        ]
        with torch.inference_mode():
            model(self.tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        shape, dtype = self.shape, getattr(torch, self.dtype)
        work = [(torch.randn(s, dtype=dtype, device=self.device), part) for part, s in calls]
        q = torch.randn(
            shape.sequences, shape.heads, shape.length, shape.d_model // shape.heads,
            dtype=dtype, device=self.device,
        )  # fmt: skip

        @torch.inference_mode()
        def compute() -> None:
            for x, part in work:
                linear(x, part.weight, part.bias)
            for _ in range(shape.layers):
                scaled_dot_product_attention(q, q, q, is_causal=True)

        return compute

    def transformerlens(self) -> Callable[[], tuple[Tensor, dict[str, Tensor]]] | None:
        """Compute losses, and scores from cached patterns; return None if it is not installed."""
        try:
            from transformer_lens.model_bridge import (  # pyright: ignore[reportMissingImports]
                TransformerBridge,
            )
        except ImportError:
            return None
        with tempfile.TemporaryDirectory() as folder:
            self.config.save_pretrained(folder)  # it asks for a config, though it has a model
            bridge = TransformerBridge.boot_transformers(
                folder, hf_model=self.model("eager"), device=self.device
            )

        @torch.inference_mode()
        def compute() -> tuple[Tensor, dict[str, Tensor]]:
            logits, cache = bridge.run_with_cache(
                self.tokens, names_filter=lambda name: name.endswith("hook_pattern")
            )
            of_layers = [scores_of(matrix, self.shape.length // 2) for matrix in cache.values()]
            return losses(logits, self.tokens), stacked(of_layers)

        return compute


def stacked(of_layers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([made[name] for made in of_layers]) for name in SCORES}


def scores_of(matrix: Tensor, block: int) -> dict[str, Tensor]:
    """Return the five scores of a layer from its attention [sequence, head, query, key]."""
    means = {
        "previous_token": matrix.diagonal(-1, 2, 3)[..., : block - 1],
        "current_token": matrix.diagonal(0, 2, 3)[..., 1:block],
        "first_token": matrix[..., 1:block, 0],
        "duplicate_token": matrix.diagonal(-block, 2, 3),
        "induction": matrix.diagonal(1 - block, 2, 3)[..., 1:],
    }
    return {name: entries.double().mean(dim=(0, 2)) for name, entries in means.items()}


def timed(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(bench: Bench, rounds: int) -> dict[str, float]:
    """Return the median ratio of each method to `bare`, of `ontogeny` to `products`, and errors."""
    contenders: dict[str, Callable[[], object]] = {
        "bare": bench.bare(),
        "ontogeny": bench.ontogeny(),
        "matrices": bench.matrices(),
        "products": bench.products(),
    }
    if (lens := bench.transformerlens()) is not None:
        contenders["transformerlens"] = lens
    found = errors(bench.ontogeny()(), bench.matrices()(), bench.bare()())
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(timed(contenders[name], bench.device))
    for name, seconds in times.items():
        found[name] = median_ratio(seconds, times["bare"])
    found["over_products"] = median_ratio(times["ontogeny"], times["products"])
    found["seconds_bare"] = statistics.median(times["bare"])
    found["tokens_per_second"] = bench.tokens.numel() / statistics.median(times["ontogeny"])
    return found


def median_ratio(some: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def errors(
    mine: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]], bare: Tensor
) -> dict[str, float]:
    scores = [(mine[1][name] - theirs[1][name].cpu()).abs().max() for name in SCORES]
    return {
        "max_score_error": float(max(scores)),
        "max_loss_error": float((mine[0] - bare.cpu()).abs().max()),
    }


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


def report(options: argparse.Namespace) -> dict[str, float]:
    """Print the table; return what `--json` prints."""
    summary: dict[str, float] = {"max_score_error": 0.0, "max_loss_error": 0.0}
    for name in options.shapes:
        shape = SHAPES[name]
        found = compare(Bench(shape, options.device, options.dtype), options.rounds)
        names = [c for c in ("bare", "ontogeny", "matrices", "transformerlens") if c in found]
        peaks = {c: peak_of(c, name, options)[0] for c in names}
        summary |= {
            f"ratio_{name}": found["ontogeny"],
            f"over_products_{name}": found["over_products"],
            f"memory_share_{name}": peaks["ontogeny"] / peaks["bare"],
        }
        for error in ("max_score_error", "max_loss_error"):
            summary[error] = max(summary[error], found[error])
        if not options.json:
            print_table(name, shape, found, peaks)
    return summary


def print_table(name: str, shape: Shape, found: dict[str, float], peaks: dict[str, int]) -> None:
    print(f"\npythia-{name} shape, {shape.sequences} x {shape.length} tokens")
    print(f"(bare: {found['seconds_bare']:.3f} s; ontogeny: {found['tokens_per_second']:,.0f}")
    print("tokens per second)\n\n| | time | peak MB |\n|---|---|---|")
    for contender, peak in peaks.items():
        print(f"| {contender} | {found[contender]:.2f} | {peak / 1e6:.0f} |")
    print(f"| products | {found['products']:.2f} | |")
    if "transformerlens" not in found:
        print("\ntransformerlens is not installed: see requirements-transformerlens.txt")
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
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["70m", "160m"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
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
