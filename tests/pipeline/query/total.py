"""A stored result for tests: the total of a synthetic run's scores, with all kinds of values.

A module of its own, because processes that are killed import it, and should have little to import.
"""

from typing import Any

import numpy as np
import xarray as xr

from pipeline.query.aggregates import stored_result
from pipeline.store import Store


def total_of(run: xr.DataTree) -> xr.Dataset:
    """Return a dataset with all kinds of values, which follows from the rows of `scores`."""
    found = run["scores"]["induction"].sum(["layer", "head"]).astype(np.float64).values
    names = np.array(["é", "", "a longer one"], dtype=object)
    return xr.Dataset(
        {
            "total": ("step", found, {"units": "1", "definition": "A sum."}),
            "sum": ((), found.sum()),
            "known": ("step", np.isfinite(found)),
            "fixed": ("step", np.full(len(found), "text")),
            "none": (("step", "empty"), np.zeros((len(found), 0), np.float32)),
            "nan": ("step", np.full(len(found), np.nan, np.float32)),
        },
        {"step": run["scores"]["step"].values, "name": ("named", names), "named": [5, 6, 7]},
        {"left_out": ["losses/loss"], "about": {"counts": [1, 2.5, None]}, "tokens": np.int64(3)},
    )


def total(store: Store | str, version: int = 1, **parameters: Any) -> xr.Dataset:
    """Return the result from the store, which it is put into if it is not there."""
    return stored_result(store, "total", version, parameters, ["scores"], total_of)


def store_total(uri: str) -> None:
    """Store the result, in a process of its own."""
    total(uri)
