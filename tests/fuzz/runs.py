"""Small valid runs in every format, whose files are then damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from pipeline.inputs.text import train_tokenizer
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig

VOCABULARY, CONTEXT = 300, 16
STEPS = (1, 2, 3)
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": CONTEXT, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
_TRAINING = """name: fuzzed
output: .
task: {kind: text, vocabulary: 300, context: 16}
model: {num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 16}
optimizer: {learning_rate: 0.001}
steps: 3
batch_size: 4
"""


def make_runs(folder: Path) -> dict[str, Path]:
    """Make one run per format in a folder, and inputs beside them; return the runs by name."""
    makers: dict[str, Callable[[Path], None]] = {
        "llama": _llama, "sharded": _sharded, "pickled": _pickled, "organism": _organism,
        "lens": _lens,
    }  # fmt: skip
    for name, make in makers.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)
    return {name: folder / name for name in makers}


def make_inputs(folder: Path) -> None:
    """Write token ids and a text into a folder."""
    ids = np.random.default_rng(0).integers(0, 11, (4, 8))
    np.save(folder / "ids.npy", ids)
    ids.astype(np.uint16).tofile(folder / "ids.bin")
    (folder / "text.txt").write_text("The cat sat on the mat. " * 40)


def _saved(folder: Path, make: Callable[[], Any], spelling: str, **options: Any) -> None:
    for step in STEPS:
        torch.manual_seed(step)
        make().save_pretrained(folder / spelling.format(step), **options)


def _llama(folder: Path) -> None:
    _saved(folder, lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)), "checkpoint-{}")
    tokenizer = train_tokenizer(["a quick brown fox jumps over the lazy dog " * 30], 270)
    for step in STEPS:
        state = {"global_step": step, "num_input_tokens_seen": 128 * step, "log_history": []}
        place = folder / f"checkpoint-{step}"
        (place / "trainer_state.json").write_text(json.dumps(state))
        tokenizer.save_pretrained(place)


def _sharded(folder: Path) -> None:
    make = lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES))  # noqa: E731
    _saved(folder, make, "step{}", max_shard_size="12KB")


def _pickled(folder: Path) -> None:
    _saved(folder, lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)), "step-{}")
    for step in STEPS:
        place = folder / f"step-{step}"
        torch.manual_seed(step)
        state = LlamaForCausalLM(LlamaConfig(**_SIZES)).state_dict()
        old = {"_use_new_zipfile_serialization": step != 2}
        torch.save(state, place / "pytorch_model.bin", **old)
        (place / "model.safetensors").unlink()


def _organism(folder: Path) -> None:
    _saved(folder, lambda: OrganismForCausalLM(OrganismConfig(**_SIZES)), "step-{}")
    (folder / "training.yaml").write_text(_TRAINING)


def _lens(folder: Path) -> None:
    for step in STEPS:
        generator = torch.Generator().manual_seed(step)
        shapes = {
            "embed.W_E": (12, 8), "pos_embed.W_pos": (CONTEXT, 8), "unembed.W_U": (8, 12),
            **{f"blocks.0.attn.W_{name}": (2, 8, 4) for name in "QKV"},
            "blocks.0.attn.W_O": (2, 4, 8),
        }  # fmt: skip
        state = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        config = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "attn_only": True,
                  "normalization_type": None, "d_vocab": 12, "n_ctx": CONTEXT,
                  "positional_embedding_type": "standard"}  # fmt: skip
        torch.save({"model": state, "epoch": step, "config": config}, folder / f"{step}.pth")
