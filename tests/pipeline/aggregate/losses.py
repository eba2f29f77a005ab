"""Losses with a known answer, as groups of a store have them."""

from typing import Any

import numpy as np
import xarray as xr


def as_group(
    losses: np.ndarray,
    steps: Any = None,
    tokens_seen: Any = None,
    digest: str = "a" * 64,
    early_late: tuple[int, int] = (2, 6),
) -> xr.Dataset:
    """Return losses [step, sequence, position] as a group `token_loss`."""
    steps = np.arange(len(losses)) if steps is None else np.asarray(steps)
    seen = np.full(len(steps), np.nan) if tokens_seen is None else np.asarray(tokens_seen, float)
    early, late = early_late
    by_position = losses.mean(axis=1)
    reached = late <= losses.shape[2]
    score = by_position[:, late - 1] - by_position[:, early - 1] if reached else seen * np.nan
    return xr.Dataset(
        {
            "loss": (("step", "sequence", "position"), losses, {"units": "nats"}),
            "in_context_score": ("step", score),
        },
        {
            "step": steps,
            "tokens_seen": ("step", seen),
            "sequence": np.arange(losses.shape[1]),
            "position": np.arange(losses.shape[2]),
        },
        {
            "input": {"digest": digest},
            "parameters": {"early_token": early, "late_token": late},
        },
    )


def sigmoid(x: np.ndarray, midpoint: Any, width: Any) -> np.ndarray:
    """Return a logistic function that rises from 10 to 90% over `width`."""
    return 1 / (1 + np.exp(-(x - midpoint) * 2 * np.log(9) / width))
