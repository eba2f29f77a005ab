"""Distances of the heads' transitions to another one: a permutation of heads.

Where one head changes together with the loss, other heads may do so as well. The p-value is the
share of head series with a transition, its own among them, whose largest one is at least as near.
It says whether this head stands out, not whether both changes coincide: in a run in which most
heads change at once, it is large for all of them.
"""

from collections.abc import Collection

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.coincidence import NEAR
from pipeline.aggregate.series import series_blocks
from pipeline.aggregate.transitions import scan
from pipeline.aggregate.variables import variable


def with_head_permutation(
    pairs: xr.Dataset, heads: Collection[str], midpoints: Float[np.ndarray, " series"]
) -> xr.Dataset:
    """Return pairs (of `coincidences`) with `p_heads` and `near_share` (dims: pair).

    heads: which of the names are series of a head; both are NaN for pairs with none or two of them,
    and without midpoints. midpoints: see `head_midpoints`.
    """
    places = pairs.attrs["places"]
    table = np.full((pairs.sizes["pair"], 2), np.nan)
    named = zip(pairs["first"].values, pairs["second"].values, strict=True)
    for i, (first, second) in enumerate(named):
        if (first in heads) == (second in heads) or not len(midpoints):
            continue
        event = second if first in heads else first
        away = np.abs(np.log10(midpoints / places[event].step))
        # Rounding must not exclude the head itself.
        table[i] = (away <= abs(float(pairs["lag"][i])) + 1e-9).mean(), (away <= NEAR).mean()
    return pairs.assign(
        p_heads=variable("pair", table[:, 0], "1",
                         "Share of head series whose largest transition is at least as near."),
        near_share=variable("pair", table[:, 1], "1",
                            f"Share of them at most {NEAR:g} decades away."),
    ).assign_attrs(head_series=len(midpoints))  # fmt: skip


def head_midpoints(run: xr.DataTree, group: str = "head_scores") -> Float[np.ndarray, " series"]:
    """Return the midpoints (steps) of the largest transitions of all head series of a group.

    Those without a transition have none.
    """
    found = []
    for block in series_blocks(run):
        if block.group != group or "head" not in block.values.dims:
            continue
        steps = block.values["step"].values
        for one in scan(steps, block.values.values.reshape(-1, len(steps)).astype(np.float64)):
            found += [one.largest.midpoint] if one.largest else []
    return np.array(found, dtype=np.float64)
