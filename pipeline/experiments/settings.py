"""Training runs that experiments share: tokens with repeats, text, and modular arithmetic."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import validated
from pipeline.training import Training

# Of runs of `substrings`: the tokens whose losses the in-context score compares, the inputs, and
# measures that several experiments read, so that they share what is computed.
EARLY, LATE = 4, 26
SUBSTRINGS_INPUTS = {
    "text": {"kind": "held_out", "sequences": 256},
    "repeated": {"kind": "repeated", "block_length": 16, "sequences": 64},
}
SUBSTRINGS_MEASURES = {
    "token_loss": {"early_token": EARLY, "late_token": LATE}, "head_scores": {}, "repeat_loss": {},
}  # fmt: skip
MODULAR_MEASURES = {"modular_addition": {}, "weight_norm": {}}
# The same of runs of `text`: one token with little before it, and one near the end of the context.
TEXT_INPUTS = {"text": {"kind": "held_out", "sequences": 512}}
TEXT_MEASURES = {"token_loss": {"early_token": 24, "late_token": 250}}

_ATTENTION_ONLY = {
    "hidden_size": 64, "num_attention_heads": 4, "layer_norm": True, "positions": "queries_keys",
    "position_init": "sinusoidal", "initializer_range": 0.072, "embedding_range": 1.0,
}  # fmt: skip


def substrings(
    layers: int = 2, seed: int = 0, steps: int = 1200, every: int = 25, **changes: Any
) -> Training:
    """Return a run on random tokens with a repeated substring, attention only.

    Two layers form induction heads near step 500, within 100 steps. changes: of the fields of a
    training file; a mapping changes the fields of the mapping that is there.
    """
    return _training(
        {
            "name": f"substrings-{layers}-layers",
            "task": {"kind": "repeated_substrings", "vocabulary": 32, "context": 32, "shortest": 4,
                     "longest": 15},
            "model": {**_ATTENTION_ONLY, "num_hidden_layers": layers},
            "optimizer": {"learning_rate": 3e-3},
            "batch_size": 32, "steps": steps, "seed": seed,
            "checkpoints": {"log_until": 16, "every": every},
        },
        changes,
    )  # fmt: skip


def text(
    layers: int = 2, seed: int = 0, steps: int = 7000, every: int = 250, **changes: Any
) -> Training:
    """Return a run on byte pairs of Python's standard library, attention only.

    With two layers, heads that continue natural repeats form slowly from step 2,000 on.
    """
    return _training(
        {
            "name": f"text-{layers}-layers",
            "task": {"kind": "text", "vocabulary": 1024, "context": 256},
            "model": {**_ATTENTION_ONLY, "num_hidden_layers": layers},
            "optimizer": {"learning_rate": 1e-2, "betas": (0.9, 0.98), "warmup_steps": 100,
                          "clip_norm": 1.0},
            "batch_size": 8, "steps": steps, "seed": seed,
            "checkpoints": {"log_until": 16, "every": every},
        },
        changes,
    )  # fmt: skip


def modular(
    p: int = 41, train_share: float = 0.5, seed: int = 0, steps: int = 1500, **changes: Any
) -> Training:
    """Return a run on addition mod p in one layer with an MLP, trained on part of the table.

    With p = 41 it has memorised its pairs near step 60 and generalises between 500 and 1,100. The
    split is that of the seed.
    """
    return _training(
        {
            "name": f"modular-{p}",
            "task": {"kind": "modular_arithmetic", "p": p, "train_share": train_share,
                     "split_seed": seed},
            "model": {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4,
                      "intermediate_size": 256, "layer_norm": False},
            "optimizer": {"learning_rate": 5e-3, "weight_decay": 1.0, "betas": (0.9, 0.98),
                          "warmup_steps": 10},
            "steps": steps, "seed": seed, "checkpoints": {"log_until": 16, "every": 20},
        },
        changes,
    )  # fmt: skip


def _training(values: dict[str, Any], changes: Mapping[str, Any]) -> Training:
    # One thread: matrices are small, and several runs are carried out at a time.
    content = _changed({"output": values["name"], "threads": 1, **values}, changes)
    return validated(Training, content, where=content["name"])


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with changes, those of nested mappings key by key."""
    merged = {
        key: _changed(values.get(key, {}), value) if isinstance(value, Mapping) else value
        for key, value in changes.items()
    }
    return {**values, **merged}
