"""The scalars of a store that trackers receive: one number per checkpoint."""

import numpy as np
import xarray as xr

from pipeline.query import open_run

# Scores of heads whose largest value over all heads is sent, by measure.
_LARGEST = {
    "head_scores": (
        "induction",
        "previous_token",
        "duplicate_token",
        "first_token",
        "current_token",
    ),
}

# By name, such as "token_loss/mean": its number at each step where it is finite.
Scalars = dict[str, dict[int, float]]


def scalars_of(store: str) -> Scalars:
    """Return the scalars of a store: every variable whose only dimension is the step, and the
    largest score of any head for each pattern of attention, as "head_scores/induction.max".

    Numbers that are not finite are left out. Raises InputError where there is no store.
    """
    found: Scalars = {}
    for group, node in open_run(store).children.items():
        rows = node.to_dataset()
        measure = str(node.attrs.get("measure", str(group).partition(".")[0]))
        for name, values in rows.data_vars.items():
            if values.dims == ("step",) and values.dtype.kind in "iuf":
                found[f"{group}/{name}"] = _finite(values)
            elif name in _LARGEST.get(measure, ()) and values.size:
                largest = values.max([dim for dim in values.dims if dim != "step"])
                found[f"{group}/{name}.max"] = _finite(largest)
    return found


def _finite(series: xr.DataArray) -> dict[int, float]:
    return {
        int(step): float(value)
        for step, value in zip(series["step"].values, series.values, strict=True)
        if np.isfinite(value)
    }
