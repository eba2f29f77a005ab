"""Select some of a run's checkpoints: given steps, every n-th, or evenly in log(1 + step)."""

from collections.abc import Collection, Sequence

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.errors import InputError


def select(
    checkpoints: Sequence[Checkpoint],
    steps: Collection[int] | None = None,
    every: int | None = None,
    log_spaced: int | None = None,
) -> list[Checkpoint]:
    """Return the selected checkpoints, in order; all of them if no rule is given.

    steps: exactly these. every: each n-th, beginning with the first. log_spaced: this number, those
    nearest to points evenly spaced in log(1 + step). Except with `steps`, the first and the last
    checkpoint are always included. Raises InputError for a step that the run does not have.
    """
    if steps is not None:
        return _of_steps(checkpoints, steps)
    if every is not None:
        chosen = {*range(0, len(checkpoints), every), len(checkpoints) - 1}
        return [checkpoints[i] for i in sorted(chosen)]
    if log_spaced is not None and log_spaced < len(checkpoints):
        return _log_spaced(checkpoints, log_spaced)
    return list(checkpoints)


def _of_steps(checkpoints: Sequence[Checkpoint], steps: Collection[int]) -> list[Checkpoint]:
    if unknown := sorted(set(steps) - {checkpoint.step for checkpoint in checkpoints}):
        nearest = min((c.step for c in checkpoints), key=lambda step: abs(step - unknown[0]))
        raise InputError(
            f"select.steps: the run has no checkpoint of step {unknown[0]}; the nearest is of "
            f"step {nearest}"
        )
    return [checkpoint for checkpoint in checkpoints if checkpoint.step in steps]


def _log_spaced(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """Return the nearest checkpoint to each point that no other point has taken, ends first."""
    places = np.log1p([checkpoint.step for checkpoint in checkpoints])
    points = np.linspace(places[0], places[-1], max(count, 2))
    free = np.ones(len(checkpoints), dtype=bool)
    # The ends first, so that no inner point takes the first or last checkpoint from them.
    for point in (points[0], points[-1], *points[1:-1]):
        distances = np.where(free, np.abs(places - point), np.inf)
        free[int(distances.argmin())] = False
    return [one for one, is_free in zip(checkpoints, free, strict=True) if not is_free]
