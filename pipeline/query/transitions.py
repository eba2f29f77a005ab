"""The transitions of one or several stores, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.query.aggregates import transitions
from pipeline.store.store_names import store_names


def stored_transitions(stores: Sequence[str]) -> xr.Dataset:
    """Return the transitions of all series of some stores (dims: series, transition).

    As `pipeline.aggregate.run_transitions.transitions_of`, with the coordinate `run` along
    "series". Those of each store are kept in it. Raises InputError where there is no store.
    """
    return joined({name: transitions(store) for name, store in store_names(stores).items()})


def joined(found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return the transitions of runs, by name, as one dataset with the coordinate `run`."""
    named = [
        table.assign_coords(run=("series", np.full(table.sizes["series"], name, dtype=object)))
        for name, table in found.items()
    ]
    made = xr.concat(named, dim="series", combine_attrs="override")
    left_out = dict.fromkeys(name for table in named for name in table.attrs["left_out"])
    return made.assign_attrs(left_out=list(left_out))


def transition_table(found: xr.Dataset) -> pd.DataFrame:
    """Return a row for each transition, by midpoint.

    Columns: `run`, `group`, `variable`, `layer` and `head` (-1 where there is none), and the
    numbers of `pipeline.aggregate.run_transitions`.
    """
    table = found.to_dataframe().reset_index()
    labels = ["run", "group", "variable", "layer", "head"]
    others = [str(name) for name in found.data_vars if name != "shape"]
    table = table.loc[table["midpoint"].notna(), labels + others]
    return table.sort_values(by=["midpoint", "run"], ignore_index=True)
