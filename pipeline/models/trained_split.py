"""Which split of a table a converted run was trained on, told by the losses that its files note."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from pipeline.errors import CheckpointError, InputError
from pipeline.models.loading import Resident, read_weights

_MOST_CHECKPOINTS = 4
_AGREES, _DIFFERS = 0.05, 0.2  # of the noted loss

Split = Bool[np.ndarray, " pair"]


def split_told_by_losses(
    folder: str | Path,
    noted: Mapping[int, float],
    tokens: Int[np.ndarray, "pair position"],
    labels: Int[np.ndarray, " pair"],
    splits: Mapping[str, Split],
) -> str | None:
    """The one of `splits` under which the weights have the train losses that their files note.

    noted: nats by step, of checkpoints `step-N` in `folder`. The mean cross-entropy at the last
    position is computed at up to 4 of these, from the last one on, until one decides: a split's
    loss is within 5% of the noted one, and every other's is off by more than 20%. None where no
    checkpoint does: after generalisation all splits have nearly the same loss.
    """
    steps = sorted(step for step, loss in noted.items() if np.isfinite(loss) and loss > 0)
    chosen = np.unique(np.linspace(len(steps) - 1, 0, _MOST_CHECKPOINTS).round().astype(int))
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
    """The loss of each pair; None of a checkpoint that cannot be read, or for another table."""
    try:
        resident = Resident(folder, dtype="float64")
        resident.swap(read_weights(folder), str(folder))
    except (CheckpointError, InputError):
        return None  # it will be named when it is computed
    facts = resident.facts
    if tokens.max() >= facts.vocabulary or tokens.shape[1] > (facts.context or np.inf):
        return None
    with torch.inference_mode():
        logits = resident.module(torch.from_numpy(tokens), last_position_only=True).logits[:, -1]
        return torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels), reduction="none"
        ).numpy()
