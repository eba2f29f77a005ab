"""Real training runs that take a second or two, saved in the usual ways."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from pipeline.training import train
from pipeline.training.config import Training

VOCABULARY = 31


def batch(generator: torch.Generator) -> torch.Tensor:
    """Return sequences whose second half repeats the first, so that there is something to learn."""
    half = torch.randint(VOCABULARY, (8, 8), generator=generator)
    return torch.cat([half, half], dim=1)


def trained(
    model: PreTrainedModel,
    folder: Path,
    steps: Sequence[int],
    rate: Callable[[int], float],
    spelling: str = "step-{}",
    pickled: bool = False,
    **save: object,
) -> Path:
    """Train a model with AdamW at `rate(step)` and save it at `steps`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for step in range(max(steps) + 1):
        if step in steps:
            place = folder / spelling.format(step)
            model.save_pretrained(place, **save)
            if pickled:
                state = {
                    name: value.to(torch.bfloat16) for name, value in model.state_dict().items()
                }
                torch.save(state, place / "pytorch_model.bin")
                (place / "model.safetensors").unlink()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        tokens = batch(generator)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return folder


def neox(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=16, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def pythia_like(folder: Path) -> Path:
    """Save log-then-linear steps in shards; the rate warms up, then decays to a tenth."""
    steps = [0, 1, 2, 4, 8, 16, 32, 64, *range(80, 401, 20)]
    return trained(neox(), folder, steps, _cosine(40, 401, 3e-3, 0.1), max_shard_size="20KB")


def warm_up_from_zero(folder: Path) -> Path:
    """Save as a Trainer does; the first step has rate 0, the last one nearly so."""
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=16,
                   bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    steps = [0, 1, 2, 4, 8, 16, *range(32, 257, 16)]

    def linear(step: int) -> float:
        return 5e-3 * min(step / 32, (257 - step) / 225)

    return trained(model, folder, steps, linear, spelling="checkpoint-{}")


def frozen_embedding(folder: Path) -> Path:
    """Save a Llama whose embedding, a shard of its own, never changes; irregular steps."""
    torch.manual_seed(2)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                    num_key_value_heads=1, intermediate_size=64, max_position_embeddings=16)
    )  # fmt: skip
    model.get_input_embeddings().requires_grad_(False)
    steps = [0, *(round(1.5**k) for k in range(2, 15))]
    return trained(model, folder, steps, lambda step: 1e-3, max_shard_size="26KB")


def low_precision_pickles(folder: Path) -> Path:
    """Save bfloat16 pickles every 10 steps; the rate drops to a tenth halfway."""
    rate = lambda step: 3e-3 if step < 80 else 3e-4  # noqa: E731
    return trained(neox(3), folder, range(0, 161, 10), rate, spelling="global_step{}", pickled=True)


def grokking(folder: Path) -> Path:
    """Train modular addition with strong weight decay, which erases the initial weights."""
    settings = {
        "name": "grokking", "output": str(folder), "steps": 400, "threads": 1,
        "task": {"kind": "modular_arithmetic", "p": 23, "operation": "add", "train_share": 0.5},
        "model": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2,
                  "intermediate_size": 64, "layer_norm": False},
        "optimizer": {"learning_rate": 1e-2, "weight_decay": 2.0, "betas": (0.9, 0.98)},
        "checkpoints": {"log_until": 16, "every": 20},
    }  # fmt: skip
    return train(Training.model_validate(settings))


def _cosine(warm_up: int, last: int, peak: float, floor: float) -> Callable[[int], float]:
    def rate(step: int) -> float:
        if step < warm_up:
            return peak * step / warm_up
        share = (step - warm_up) / (last - warm_up)
        return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)

    return rate


CLEAN = (pythia_like, warm_up_from_zero, frozen_embedding, low_precision_pickles, grokking)
