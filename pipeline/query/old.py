"""Stores of layout 1 as labelled arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from pipeline.store.layout1 import OldArray, OldCommit, OldStore
from pipeline.store.templates import (
    LABELS,
    coordinate_attributes,
    group_attributes,
    variable_attributes,
)


def open_old(uri: str, variants: Mapping[str, str] | None) -> xr.DataTree:
    """Return what `open_run` returns, of a store of layout 1."""
    store = OldStore(uri)
    masked = store.steps("masked")
    datasets: dict[str, xr.Dataset] = {}
    for name, entry in store.groups.items():
        variant = (variants or {}).get(name) or entry["current"]
        rows = [one for one in store.latest(name, variant) if one.step not in masked]
        if rows:
            datasets[name] = _dataset(store, entry["variants"][variant], rows)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = {
        "identity": store.identity,
        "masked": masked,
        "not_finite": store.steps("not_finite"),
    }
    return tree


def _dataset(store: OldStore, template: Mapping[str, Any], rows: Sequence[OldCommit]) -> xr.Dataset:
    numbers = [commit.row for commit in rows]

    def stored(
        name: str, dims: Sequence[str], dtype: Any, attributes: Mapping[str, str]
    ) -> xr.Variable:
        array = store.array(rows[0].group, rows[0].variant, name)
        lazy = indexing.LazilyIndexedArray(OldArray(array, numbers, dtype))
        return xr.Variable(dims, lazy, attributes)

    def labels(dim: str, values: Sequence[Any]) -> xr.Variable:
        return xr.Variable(dim, np.array(values), coordinate_attributes(dim))

    variables = {
        name: stored(name, about["dims"], about["dtype"], variable_attributes(name, about))
        for name, about in template["variables"].items()
    }
    coordinates: dict[str, Any] = {"step": labels("step", [commit.step for commit in rows])}
    coordinates |= {
        name: stored(
            name, ("step",), object if dtype is str else dtype, coordinate_attributes(name)
        )
        for name, dtype in LABELS.items()
        if name != "step"
    }
    coordinates |= {dim: labels(dim, values) for dim, values in template["coordinates"].items()}
    return xr.Dataset(variables, coordinates, group_attributes(template))
