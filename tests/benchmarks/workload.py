"""A run whose checkpoints take about one second each on one thread."""

from pathlib import Path

import torch

from pipeline.config import Analysis
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig


def heavy_model(seed: int) -> OrganismForCausalLM:
    """Make a model with three million random weights."""
    torch.manual_seed(seed)
    config = OrganismConfig(
        vocab_size=512,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=1024,
        max_position_embeddings=128,
    )
    return OrganismForCausalLM(config)


def heavy_run(folder: Path, steps: int) -> Path:
    """Write a run of so many checkpoints."""
    for step in range(steps):
        heavy_model(step).save_pretrained(folder / f"step-{step}")
    return folder


def heavy_analysis(run: Path, store: Path, count: int) -> Analysis:
    """Return an analysis of head scores on 64 sequences of 121 tokens, by so many workers."""
    return Analysis.model_validate(
        {
            "checkpoints": str(run),
            "store": str(store),
            "inputs": {"repeated": {"kind": "repeated", "block_length": 60, "sequences": 64}},
            "measures": ["head_scores"],
            "workers": {"count": count},
        }
    )
