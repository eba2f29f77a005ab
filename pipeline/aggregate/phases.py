"""The three phases of grokking, by stated rules on the progress measures of one run.

Nanda et al. 2023, section 5.2, describe them and give steps for one run, but no rule:

- memorisation: train and excluded loss fall together, test and restricted loss stay high;
- circuit formation: excluded loss rises and restricted loss falls, train loss stays low;
- cleanup: test loss falls, and the weights that memorised go.

Here each ends at a saved step that a rule names; nothing is interpolated:

- memorisation ends where excluded loss is lowest, of the steps up to the end of cleanup: from
  there on, what is removed with the key frequencies is needed;
- circuit formation ends at the first step from which on test loss stays below half of its maximum;
- cleanup ends at the first step from which on test loss stays below `SOLVED` nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.aggregate.crossings import first_crossing

SOLVED = 0.1  # nats
NAMES = ("memorisation", "circuit formation", "cleanup")


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


def changes(phase: Phase, series: Mapping[str, xr.DataArray]) -> dict[str, tuple[float, float]]:
    """The values of each series (dims: step) at the first and the last step of a phase.

    Where the run stops within the phase, its last step counts.
    """
    found = {}
    for name, values in series.items():
        inside = values.sortby("step").sel(step=slice(phase.start, phase.end))
        found[name] = (float(inside[0]), float(inside[-1])) if inside.size else (np.nan, np.nan)
    return found


@dataclass(frozen=True)
class Lead:
    """When restricted and test loss were first solved for good, and by how much the one led.

    share: (generalised - circuit) / generalised, of the steps that it took to generalise.
    """

    circuit: int
    generalised: int

    @property
    def share(self) -> float:
        """Zero where both came at once."""
        return (self.generalised - self.circuit) / max(self.generalised, 1)


def lead(progress: xr.Dataset, threshold: float = SOLVED) -> Lead | None:
    """Restricted loss's lead over test loss at a threshold in nats; None if either never fell."""
    circuit = first_crossing(progress["restricted_loss"], threshold, stays=True)
    generalised = first_crossing(progress["test_loss"], threshold, stays=True)
    return None if circuit is None or generalised is None else Lead(circuit, generalised)


def summary_of(progress: xr.Dataset, threshold: float = SOLVED) -> dict[str, float | None]:
    """When a run memorised, had its circuit and generalised, and where restricted loss stood then.

    `memorised`, `circuit`, `generalised`: the first step from which on train, restricted and test
    loss stay below the threshold. `test_falls`: see `fall_of`; `restricted_then`: restricted loss
    at that step. None for what never happened.
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
    return {**crossings, "test_falls": falls, "restricted_then": then}
