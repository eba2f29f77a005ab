"""Milestones and phases of grokking, by rules on a run's progress measures.

`milestones` is the one definition of "memorised", "circuit formed" and "generalised": a loss stays
below `SOLVED`, by the rule of `pipeline.aggregate.levels`.

Nanda et al. 2023, section 5.2, describe them and give steps for one run, but no rule:

- memorisation: train and excluded loss fall together, test and restricted loss stay high;
- circuit formation: excluded loss rises and restricted loss falls, train loss stays low;
- cleanup: test loss falls, and the weights that memorised decay.

Here each phase ends at a saved step given by a rule (see `RULES`); nothing is interpolated. By the
first rule memorisation ends at the minimum of excluded loss, from which on the model depends on the
key frequencies; only steps up to the end of cleanup count for it.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.aggregate.levels import SPIKES, stays_past

SOLVED = 0.1  # nats: the label's probability is then 0.9 (in the geometric mean)
NAMES = ("memorisation", "circuit formation", "cleanup")

# The milestone of each loss that stays below SOLVED, in the order in which they are expected.
MILESTONES = {
    "train_loss": "memorised",
    "restricted_loss": "circuit formed",
    "test_loss": "generalised",
}

RULES = (
    "Memorisation ends where excluded loss is lowest, of the checkpoints up to the end of cleanup; "
    "circuit formation at the first checkpoint from which on test loss stays below half of its "
    f"maximum; cleanup at the first from which on it stays below {SOLVED} nats; "
    f"{SPIKES}."
)


@dataclass(frozen=True)
class Phase:
    """One phase with its first and last step; end is None where the run ends within it."""

    name: str
    start: int
    end: int | None


def milestones(progress: xr.Dataset, threshold: float = SOLVED) -> dict[str, int | None]:
    """Return for each loss of `MILESTONES` the first step from which on it stays below `threshold`.

    By the rule of `pipeline.aggregate.levels`, spikes aside. None where it does not stay below: a
    loss that fell below and rose again, or that is not finite at the last step. The last saved step
    alone is enough.
    """
    return {name: stays_past(progress[name], threshold) for name in MILESTONES}


def phases(progress: xr.Dataset) -> list[Phase]:
    """Return the phases that a run reached, in order. `progress`: the group `modular_addition`.

    Empty where there is only one step, or where excluded or test loss is not finite at some step
    (for operations other than add and subtract excluded loss is undefined). A phase without a step
    of its own (memorisation that ended by the first step, circuit formation that never began) is
    left out together with all later ones.
    """
    losses = progress.sortby("step")[["excluded_loss", "test_loss"]]
    # The minimum and the maximum that the rules need might be at the missing steps.
    if losses.sizes["step"] < 2 or not np.isfinite(losses.to_array()).all():
        return []
    first, last = int(losses["step"][0]), int(losses["step"][-1])
    found, start = [], first
    for name, end in zip(NAMES, _ends(losses), strict=True):
        if end is not None and end <= start:
            break
        found.append(Phase(name, start, end))
        if end is None or end == last:
            break
        start = end
    return found


def _ends(losses: xr.Dataset) -> tuple[int | None, int | None, int | None]:
    test = losses["test_loss"]
    solved = stays_past(test, SOLVED)
    until = losses["excluded_loss"].sel(step=slice(None, solved))
    lowest = int(until["step"][int(until.values.argmin())])
    # A minimum at the last step is no end while test loss is still to fall: excluded loss may go on
    # falling.
    unended = solved is None and lowest == int(losses["step"][-1])
    return None if unended else lowest, fall_of(test), solved


def fall_of(test_loss: xr.DataArray) -> int | None:
    """Return the first step from which on test loss stays below half of its maximum, or None.

    The maximum is that of the finite values.
    """
    finite = test_loss.values[np.isfinite(test_loss.values)]
    return stays_past(test_loss, float(finite.max()) / 2) if finite.size else None


def summary_of(progress: xr.Dataset, threshold: float = SOLVED) -> dict[str, float | None]:
    """Return when a run memorised, formed its circuit and generalised, with derived numbers.

    `memorised`, `circuit`, `generalised`: see `milestones`, of train, restricted and test loss.
    `lead`: (generalised - circuit) / generalised. `test_falls`: see `fall_of`; `restricted_then`:
    restricted loss at that step. None for what never happened, and for a lead at step 0.
    """
    falls = fall_of(progress["test_loss"])
    then = None if falls is None else float(progress["restricted_loss"].sel(step=falls))
    reached = milestones(progress, threshold)
    crossings = dict(zip(("memorised", "circuit", "generalised"), reached.values(), strict=True))
    lead = _lead(crossings["circuit"], crossings["generalised"])
    return {**crossings, "lead": lead, "test_falls": falls, "restricted_then": then}


def _lead(circuit: int | None, generalised: int | None) -> float | None:
    if circuit is None or not generalised:  # a share of 0 steps is undefined
        return None
    return (generalised - circuit) / generalised
