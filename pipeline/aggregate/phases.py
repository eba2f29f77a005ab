"""The three phases of grokking, by stated rules on the progress measures of one run.

Nanda et al. 2023, section 5.2, describe them and give steps for one run, but no rule:

- memorisation: train and excluded loss fall together, test and restricted loss stay high;
- circuit formation: excluded loss rises and restricted loss falls, train loss stays low;
- cleanup: test loss falls, and the weights that memorised go.

Here each ends at a saved step that a rule names (see `RULES`); nothing is interpolated. The first
rule dates the step from which on the model needs what is removed with the key frequencies; only
steps up to the end of cleanup count for it.
"""

from dataclasses import dataclass

import xarray as xr

from pipeline.aggregate.crossings import first_crossing

SOLVED = 0.1  # nats
NAMES = ("memorisation", "circuit formation", "cleanup")
RULES = (
    "Memorisation ends where excluded loss is lowest, circuit formation at the first checkpoint "
    "from which on test loss stays below half of its maximum, cleanup at the first from which on "
    f"it stays below {SOLVED} nats."
)


@dataclass(frozen=True)
class Phase:
    """One phase with its first and last step; end is None where the run stops within it."""

    name: str
    start: int
    end: int | None


def phases(progress: xr.Dataset) -> list[Phase]:
    """The phases that a run reached, in order. `progress`: the group `modular_addition`.

    Empty where excluded loss is undefined (other operations than add and subtract) or there is
    only one step. A phase without a step of its own (circuit formation that never began) is left
    out together with all later ones.
    """
    losses = progress.sortby("step").dropna("step", subset=["excluded_loss", "test_loss"])
    if losses.sizes["step"] < 2:
        return []
    first, last = int(losses["step"][0]), int(losses["step"][-1])
    ends = _ends(losses)
    found, start = [], first
    for name, end in zip(NAMES, ends, strict=True):
        if end is not None and end < start:
            break
        found.append(Phase(name, start, end))
        if end is None or end == last:
            break
        start = end
    return found


def _ends(losses: xr.Dataset) -> tuple[int | None, int | None, int | None]:
    test = losses["test_loss"]
    solved = first_crossing(test, SOLVED, stays=True)
    until = losses["excluded_loss"].sel(step=slice(None, solved))
    lowest = int(until["step"][int(until.values.argmin())])
    memorised = None if lowest == int(until["step"][-1]) else lowest
    return memorised, fall_of(test), solved


def fall_of(test_loss: xr.DataArray) -> int | None:
    """The first step from which on test loss stays below half of its maximum; None if none is."""
    return first_crossing(test_loss, float(test_loss.max()) / 2, stays=True)


def summary_of(progress: xr.Dataset, threshold: float = SOLVED) -> dict[str, float | None]:
    """When a run memorised, had its circuit and generalised, and where restricted loss stood then.

    `memorised`, `circuit`, `generalised`: the first step from which on train, restricted and test
    loss stay below the threshold. `lead`: (generalised - circuit) / generalised. `test_falls`: see
    `fall_of`; `restricted_then`: restricted loss at that step. None for what never happened.
    """
    falls = fall_of(progress["test_loss"])
    then = None if falls is None else float(progress["restricted_loss"].sel(step=falls))
    crossings = {
        name: first_crossing(progress[loss], threshold, stays=True)
        for name, loss in (
            ("memorised", "train_loss"),
            ("circuit", "restricted_loss"),
            ("generalised", "test_loss"),
        )
    }
    lead = _lead(crossings["circuit"], crossings["generalised"])
    return {**crossings, "lead": lead, "test_falls": falls, "restricted_then": then}


def _lead(circuit: int | None, generalised: int | None) -> float | None:
    if circuit is None or generalised is None:
        return None
    return (generalised - circuit) / max(generalised, 1)
