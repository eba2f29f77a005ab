"""Stored labels of heads that say more than the pattern of attention."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.findings.heads import Onset
from pipeline.report.site.run_data import Run

_HEAD = {"step", "layer", "head"}
_Place = tuple[int, int]  # layer and head


class Lowers(NamedTuple):
    """The label of an anti-induction head at a step.

    margin: what its copying score is below that score's null by more than.
    """

    step: int
    margin: float

    @property
    def rule(self) -> str:
        """Return the rule of the label, with its step, as a clause."""
        by = f" by more than {self.margin:g}" if self.margin else ""
        return (
            f"it lowers the tokens that it attends to: its copying score is below its null{by} at "
            f"step {self.step:,}"
        )


def lowering(run: Run, scores: str, place: _Place, onset: Onset) -> Lowers | None:
    """Return the label anti_induction of a head that has the induction pattern; None without it.

    That of the same input as the group `scores` of head scores, at the last step at which the head
    has the pattern.
    """
    groups = run.groups.get("head_labels", {})
    labels = groups.get(scores.replace("head_scores", "head_labels", 1))
    if labels is None or set(labels.get("anti_induction", xr.DataArray()).dims) != _HEAD:
        return None
    end = run.steps[-1] if onset.until is None else onset.until
    one = labels["anti_induction"].reindex(layer=[place[0]], head=[place[1]])
    one = one.sel(step=(one["step"] >= onset.step) & (one["step"] <= end))
    known = one.isel(layer=0, head=0).dropna("step")
    if not known.size or known[-1] != 1:
        return None
    parameters = labels.attrs.get("parameters") or {}
    return Lowers(int(known["step"][-1]), float(parameters.get("copying_margin", 0)))


def other_labels(run: Run, patterns: Collection[str]) -> dict[_Place, dict[str, str]]:
    """Return name and definition of the labels that heads have at the end, besides some patterns.

    At the last step at which a label is defined.
    """
    found: dict[_Place, dict[str, str]] = {}
    labels = run.first("head_labels")
    for name, values in {} if labels is None else labels[1].data_vars.items():
        if str(name) in patterns or set(values.dims) != _HEAD:
            continue
        known = values.dropna("step", how="all")
        if not known.size:
            continue
        last = known.isel(step=-1).transpose("layer", "head")
        for i, j in np.argwhere(last.values == 1).tolist():
            place = int(last["layer"][i]), int(last["head"][j])
            definition = str(values.attrs.get("definition", ""))
            found.setdefault(place, {})[str(name)] = definition
    return found
