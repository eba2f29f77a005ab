"""The onset of a pattern of attention in each head of a `head_scores` group.

A head forms only above its null: its level is a distance of its score from its null (see
`pipeline.measures.head_patterns`), passed by the rule of `pipeline.aggregate.levels`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.aggregate.levels import carrying, longest_past
from pipeline.aggregate.transitions import Scanned, Transition, scan
from pipeline.measures.head_patterns import THRESHOLD, excess_of, has_pattern, threshold_of


class Onset(NamedTuple):
    """The onset of a pattern in one head.

    step: the first saved step of those at which the head has the pattern. until: the last of them,
    None where it has the pattern to the end. last: the head's score at the last step. transition:
    the sudden change that took the head there, if it was one. scanned: the shape of the head's
    score, over so many checkpoints.
    """

    step: int
    layer: int
    head: int
    until: int | None
    last: float
    transition: Transition | None
    scanned: Scanned
    checkpoints: int


class Heads(NamedTuple):
    """The scores of a `head_scores` group, and the threshold of their excess over the nulls.

    threshold: that of the run's `head_labels`, if it has them.
    """

    scores: xr.Dataset
    threshold: float = THRESHOLD

    def excess(self, pattern: str) -> xr.DataArray | None:
        """Return the excess of each head's score over its null; None where no null is stored."""
        excess = excess_of(self.scores, pattern)
        return None if excess is None else excess.compute()


def heads_of(groups: Mapping[str, Mapping[str, xr.Dataset]], name: str) -> Heads:
    """Return the group of head scores of that name, with the threshold of its labels.

    groups: by their measure and then by name.
    """
    labels = groups.get("head_labels", {})
    beside = labels.get(name.replace("head_scores", "head_labels", 1), labels.get("head_labels"))
    return Heads(groups["head_scores"][name], threshold_of(beside))


def onsets(heads: Heads, pattern: str) -> list[Onset]:
    """Return the onsets of a pattern in all heads that had it, the earliest first.

    Empty where the store has no null for the pattern. Steps at which a head is not finite are left
    out for all heads (see `counted_steps`).
    """
    excess = heads.excess(pattern)
    if excess is None:
        return []
    excess = counted_steps(excess).dropna("step", how="all").transpose("layer", "head", "step")
    level = float(np.nextafter(heads.threshold, 0))  # a head that reaches the threshold has formed
    score = heads.scores[pattern].compute().transpose("layer", "head", "step")
    stretches = {
        (i, j): stretch
        for i, j in np.argwhere(has_pattern(excess, heads.threshold).any("step").values).tolist()
        if (stretch := longest_past(excess[i, j], level, "above"))
    }
    found = _scanned(score.sel(step=excess["step"]), list(stretches))
    formed = [
        Onset(
            stretch.first,
            int(excess["layer"][i]),
            int(excess["head"][j]),
            stretch.last,
            float(score[i, j, -1]),
            carrying(excess[i, j], level, "above", found[i, j].transitions),
            found[i, j],
            excess.sizes["step"] - found[i, j].left_out,
        )
        for (i, j), stretch in stretches.items()
    ]
    return sorted(formed)  # by step, then layer and head: the order of the fields


def _scanned(score: xr.DataArray, places: list[tuple[int, int]]) -> dict[tuple[int, int], Scanned]:
    """Return the transitions of some heads' scores, by the head's place in the array."""
    if not places:
        return {}
    series = np.stack([score.values[place] for place in places]).astype(np.float64)
    return dict(zip(places, scan(score["step"].values, series), strict=True))


def strongest(score: xr.DataArray) -> xr.DataArray:
    """Return the highest score of any head at each step (dims: step), ignoring undefined heads."""
    # Not `max`, which warns where all heads are NaN; `fmax` returns NaN only then.
    return score.reduce(np.fmax.reduce, dim="head").reduce(np.fmax.reduce, dim="layer")


def counted_steps(excess: xr.DataArray) -> xr.DataArray:
    """Mask the steps at which a head's score or null is not finite; `bad_steps` are they.

    A head that is finite at no step does not mask any.
    """
    return excess.where(~bad_steps(excess))


def bad_steps(score: xr.DataArray) -> xr.DataArray:
    """Return a mask of the steps at which a head is not finite that is finite at another step."""
    finite = xr.apply_ufunc(np.isfinite, score)
    return (~finite & finite.any("step")).any(["layer", "head"])
