"""Models of Pythia's shapes with random weights, and the methods that are compared on them.

Each returns per-token losses, or these and the five scores of every head, on repeated random
tokens:

    bare            the Hugging Face forward with SDPA, no cache, all logits, and the cross-entropy
                    of every token in float32: what anyone pays for the losses alone
    ontogeny        losses and the five scores of every head
    matrices        the same from eager attention with `output_attentions`
    products        the model's matrix products and fused attention alone, as torch computes them
    transformerlens patterns and losses, where it is installed (requirements-transformerlens.txt)
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel

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
Scored = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Shape:
    """A model's shape and its input; blocks are at most half a sequence, without BOS."""

    layers: int
    d_model: int
    heads: int
    sequences: int
    length: int
    vocabulary: int = 50304

    @property
    def config(self) -> GPTNeoXConfig:
        return GPTNeoXConfig(
            hidden_size=self.d_model,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.d_model,
            vocab_size=self.vocabulary,
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
        with torch.device(device):  # billions of random numbers take a CPU long
            state = AutoModelForCausalLM.from_config(self.config).state_dict()
        self.resident.swap(state)
        spec = RepeatedInput(
            block_length=shape.length // 2, repeats=2, sequences=shape.sequences, bos=False
        )
        self.input: Input = make_input("repeated", spec, "", self.resident.facts)
        self.tokens = torch.from_numpy(self.input.tokens).to(device)
        self.entries = scored_entries(self.input, device)
        self.measure = HeadScores()
        self.setting = Setting(self.resident.facts, self.input)
        wanted = (Pass(self.input.name, losses=True), *self.measure.passes(self.setting))
        (self.wanted,) = merge(wanted)

    def model(self, attention: str) -> PreTrainedModel:
        """Return a second module with the same weights and another attention implementation."""
        second = Resident(self.config, self.device, self.dtype)
        second.swap(self.resident.module.state_dict())
        second.module.set_attn_implementation(attention)
        return second.module

    def ontogeny(self) -> Callable[[], Scored]:
        def compute() -> Scored:
            record = run(self.resident, self.input, self.wanted)
            context = Context(self.setting, self.resident.weights, (record,))
            made = self.measure.compute(context)
            return record.kept_loss, {name: torch.as_tensor(made[name]) for name in SCORES}

        return compute

    def bare(self) -> Callable[[], Tensor]:
        return bare(self.model("sdpa"), self.tokens)

    def matrices(self) -> Callable[[], Scored]:
        model = self.model("eager")

        @torch.inference_mode()
        def compute() -> Scored:
            out = model(self.tokens, use_cache=False, output_attentions=True)
            of_layers = [scores_of(matrix, self.entries) for matrix in out.attentions]
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

    def transformerlens(self) -> Callable[[], Scored] | None:
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
        def compute() -> Scored:
            logits, cache = bridge.run_with_cache(
                self.tokens, names_filter=lambda name: name.endswith("hook_pattern")
            )
            of_layers = [scores_of(matrix, self.entries) for matrix in cache.values()]
            return losses(logits, self.tokens), stacked(of_layers)

        return compute


def stacked(of_layers: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([made[name] for made in of_layers]) for name in SCORES}


def scored_entries(made: Input, device: str) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return the (sequence, query, key) of all entries whose mean is a score, by its name.

    The blocks of sequences have different lengths, n: the first block is positions 0 to n - 1 and
    the second n to 2n - 1. What follows in a sequence of short blocks is not counted.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
    for sequence, n in enumerate(made.arrays["block_length"]):
        first, second = np.arange(1, n), np.arange(n, 2 * n)
        pairs = {
            "previous_token": (first, first - 1),
            "current_token": (first, first),
            "first_token": (first, 0 * first),
            "duplicate_token": (second, second - n),
            "induction": (second, second - n + 1),
        }
        for name, (query, key) in pairs.items():
            found[name].append(np.stack([np.full_like(query, sequence), query, key]))
    joined = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    return {name: tuple(torch.from_numpy(entries).to(device)) for name, entries in joined.items()}


def scores_of(
    matrix: Tensor, entries: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return the five scores of a layer from its attention [sequence, head, query, key]."""
    return {
        name: matrix[sequence, :, query, key].double().mean(dim=0)
        for name, (sequence, query, key) in entries.items()
    }


def errors(mine: Scored, theirs: Scored, bare: Tensor) -> dict[str, float]:
    scores = [(mine[1][name] - theirs[1][name].cpu()).abs().max() for name in SCORES]
    return {
        "max_score_error": float(torch.stack(scores).max()),
        "max_loss_error": float((mine[0] - bare.cpu()).abs().max()),
    }
