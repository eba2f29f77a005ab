"""Identify the split of a table that a converted run was trained on, by its recorded losses."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from pipeline.errors import CheckpointError, InputError
from pipeline.models.resident import Resident
from pipeline.models.weights import read_weights

_MOST_CHECKPOINTS = 4
# Fractions of the recorded loss. A loss recorded just before or after the weights were saved
# differs by a step's change; the losses of train and test pairs differ by orders of magnitude
# between memorisation and generalisation.
_AGREES, _DIFFERS = 0.05, 0.2

Split = Bool[np.ndarray, " pair"]


def split_told_by_losses(
    folder: str | Path,
    noted: Mapping[int, float],
    tokens: Int[np.ndarray, "pair position"],
    labels: Int[np.ndarray, " pair"],
    splits: Mapping[str, Split],
) -> str | None:
    """Return the one of `splits` whose train losses are those that the files recorded, or None.

    noted: loss in nats by step, of checkpoints `step-N` in `folder`. The mean cross-entropy at the
    last position is computed for up to 4 of these, the last one first, until one decides: the loss
    of one split is within 5% of the recorded one, and that of every other split differs by more
    than 20%. If none decides the result is None: after generalisation all splits have nearly the
    same loss.
    """
    steps = sorted(step for step, loss in noted.items() if np.isfinite(loss) and loss > 0)
    chosen = np.unique(np.linspace(len(steps) - 1, 0, _MOST_CHECKPOINTS).round().astype(int))
    # The last one first: early checkpoints have the loss of an untrained model on every split.
    for step in (steps[i] for i in chosen[::-1] if steps):
        losses = _losses(Path(folder) / f"step-{step}", tokens, labels)
        off = {
            name: np.inf if losses is None else abs(losses[is_train].mean() / noted[step] - 1)
            for name, is_train in splits.items()
        }
        best, *others = sorted(off, key=off.__getitem__)
        if off[best] <= _AGREES and all(off[name] > _DIFFERS for name in others):
            return best
    return None


def _losses(
    folder: Path, tokens: Int[np.ndarray, "pair position"], labels: Int[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"] | None:
    """Return the loss (nats) of each pair; None for an unreadable checkpoint or another table."""
    try:
        # float64: after memorisation, losses are below the resolution of a float32 softmax.
        resident = Resident(folder, dtype="float64")
        resident.swap(read_weights(folder), str(folder))
    except (CheckpointError, InputError):
        return None  # it is reported when the checkpoint is computed
    facts = resident.facts
    if tokens.max() >= facts.vocabulary or tokens.shape[1] > (facts.context or np.inf):
        return None
    with torch.inference_mode():
        logits = resident.module(torch.from_numpy(tokens), last_position_only=True).logits[:, -1]
        return torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels), reduction="none"
        ).numpy()
