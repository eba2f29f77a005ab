"""A Trainer's run of a tiny language model, with the callbacks that a test or benchmark gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

ANALYSIS: dict[str, Any] = {
    "inputs": {"repeated": {"kind": "repeated", "block_length": 8, "sequences": 4}},
    "measures": ["head_scores", "weight_norm"],
}


def trainer(
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    steps: int = 6,
    layers: int = 1,
    width: int = 16,
    **arguments: Any,
) -> Trainer:
    """Return a Trainer whose weights, data, order and dropout follow from a seed."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "gpt_neox",
            vocab_size=40,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=4 * width,
            max_position_embeddings=32,
            hidden_dropout=0.1,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    rows = torch.randint(1, 40, (64, 32), generator=torch.Generator().manual_seed(1))
    given = {"save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4} | arguments
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            **given,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=list(callbacks),
    )
