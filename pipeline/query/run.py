"""Queries of one store: open it as labelled arrays, select by label, make a table.

`open_run` reads names and metadata only; numbers are read when they are needed, from the
trajectories where these are up to date, and otherwise from the rows.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from xarray.core import indexing

from pipeline.errors import InputError, suggestion
from pipeline.query.tables import Asked, answer, in_chunks, to_frame, write
from pipeline.store import Store
from pipeline.store.layout import ROW_ARRAYS, group_attributes, variable_attributes
from pipeline.store.lazy import Form, StoredArray, described
from pipeline.store.markers import Commit, shown
from pipeline.store.rows import ROWS
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.trajectories import Published, blocks, published

__all__ = ["Asked", "ask", "open_run", "parse_selection", "select", "to_frame", "write"]

Label = int | str | slice | Sequence[int] | Sequence[str]
_KEPT = 2**22  # largest array (in numbers) that is cached in memory once it is read
_TOGETHER = 2**22  # numbers in one Dask chunk of rows


def open_run(
    uri: str | Path | Store,
    variants: Mapping[str, str] | None = None,
    chunks: Mapping[str, int] | Literal["stored"] | None = None,
) -> xr.DataTree:
    """Open the committed rows of a store, lazily: a group per measure, in order of step.

    Each group has the coordinates step, tokens_seen (NaN where unknown), uri and digest (of the
    weights) along "step", and shows one fingerprint variant: its current one, or the one that
    `variants` names. A group without a committed row is left out, and so are the rows of
    checkpoints that the audit masks: `attrs["masked"]` of the tree has their steps and the reasons.
    `attrs["not_finite"]` has the steps with numbers that are NaN or infinite because the model's
    are, with the variables; other NaN is undefined by definition. Variables have the attributes
    `unit`, `definition` and `references`; groups have version, parameters and input of the measure.

    An opened tree does not change: rows that are written later appear when it is opened again.
    chunks: sizes of Dask arrays, or "stored" for the stored ones (shards of trajectories, else a
    number of rows); None reads without Dask. Raises InputError where there is no store.
    """
    store = uri if isinstance(uri, Store) else Store(str(uri))
    commits = store.commits()  # before the groups: see pipeline.store
    catalogue, trajectories = store.catalogue(), published(store)
    datasets: dict[str, xr.Dataset] = {}
    for name, group in catalogue.groups.items():
        variant = (variants or {}).get(name) or str(group.attrs["current"])
        rows = shown((c for c in commits if c.group == name), variant, catalogue.masked)
        if rows:
            ready = trajectories.get(name)
            ready = ready if ready and ready.holds(variant, rows) else None
            datasets[name] = _dataset(store.uri, f"{name}/{variant}", group[variant], rows, ready)
    if chunks is not None:
        datasets = {name: d.assign(_chunked(d, chunks)) for name, d in datasets.items()}
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = {
        "identity": dict(catalogue.identity),
        "masked": dict(catalogue.masked),
        "not_finite": dict(catalogue.not_finite),
    }
    return tree


def select(tree: xr.DataTree, address: str, **labels: Label) -> xr.DataArray:
    """Return one variable, "group/variable", at the given labels of its dimensions.

    A label selects one entry, a list several, a slice all between two labels, both included.
    Raises InputError, with the nearest name, for an unknown group, variable, dimension or label.
    """
    group, _, name = address.rpartition("/")
    if not tree.children:
        masked = "; steps that the audit masks are not shown" if tree.attrs.get("masked") else ""
        raise InputError(
            f"there is no {address!r}: the store holds nothing yet{masked}: run its analysis"
        )
    if group not in tree.children:
        known = [f"{g}/{v}" for g, node in tree.children.items() for v in node.data_vars]
        raise InputError(f"there is no {address!r} in this store; {suggestion(address, known)}")
    variables = tree.children[group].data_vars
    if name not in variables:
        known = [str(variable) for variable in variables]
        raise InputError(f"there is no {name!r} in group {group!r}; {suggestion(name, known)}")
    found = variables[name]
    for dim, label in labels.items():
        found = _select_one(found, address, dim, label)
    return found


def ask(
    tree: xr.DataTree, address: str, asked: Asked | None = None, **labels: Label
) -> Iterator[pd.DataFrame]:
    """Select as `select` does, apply `asked`, and yield the rows of a table, in pieces."""
    array = select(tree, address, **labels)
    group = tree.children[address.rpartition("/")[0]].to_dataset()
    return answer(array, group, asked or Asked())


def parse_selection(text: str) -> Label:
    """Parse a typed label: "100" or "W_E" (one), "1,2,5" (several), "100:500" (a slice)."""
    if ":" in text:
        start, _, stop = text.partition(":")
        return slice(_label(start) if start else None, _label(stop) if stop else None)
    if "," in text:
        return [_label(part) for part in text.split(",") if part]  # type: ignore[return-value]
    return _label(text)


def _dataset(
    uri: str, path: str, group: Any, rows: list[Commit], ready: Published | None
) -> xr.Dataset:
    template = group.attrs["template"]
    numbers = tuple(commit.row for commit in rows)

    def stored(name: str, dims: Sequence[str], dtype: str | type, about: Any) -> xr.Variable:
        array: zarr.Array = group[name]
        shape, chunk = (len(rows), *array.shape[1:]), array.chunks
        forms = [Form(ROWS, f"{path}/{name}", chunk, chunk, described(array), numbers)]
        together = (max(_TOGETHER // prod(chunk), 1), *chunk[1:])
        if ready and name in ready.arrays:
            folder, (chunk, together) = f"{TRAJECTORIES}/{ready.folder}", blocks(shape)
            forms.append(Form(folder, name, chunk, together, ready.arrays[name]))
        # As xarray's own backends do: selections are composed and read only when values are used.
        data = indexing.LazilyIndexedArray(StoredArray(uri, forms, shape, dtype))
        return xr.Variable(
            dims,
            data if prod(shape) > _KEPT else indexing.MemoryCachedArray(data),
            variable_attributes(about),
            {"preferred_chunks": dict(zip(dims, together, strict=True))},
        )

    variables = {
        name: stored(name, about["dims"], about["dtype"], about)
        for name, about in template["variables"].items()
    }
    coordinates: dict[str, Any] = {
        name: stored(name, ("step",), object if dtype is str else dtype, {})
        for name, (dtype, _) in ROW_ARRAYS.items()
        if name != "step"
    }
    coordinates["step"] = np.array([commit.step for commit in rows])
    coordinates |= {dim: np.array(values) for dim, values in template["coordinates"].items()}
    return xr.Dataset(variables, coordinates, group_attributes(template))


def _chunked(
    dataset: xr.Dataset, chunks: Mapping[str, int] | Literal["stored"]
) -> dict[Hashable, xr.Variable]:
    """Return the variables as Dask arrays; coordinates are not chunked."""
    if chunks == "stored":
        return {name: in_chunks(array).variable for name, array in dataset.data_vars.items()}
    return {
        name: array.variable.chunk({d: n for d, n in chunks.items() if d in array.dims})
        for name, array in dataset.data_vars.items()
    }


def _select_one(array: xr.DataArray, address: str, dim: str, label: Label) -> xr.DataArray:
    if dim not in array.dims:
        known = [str(known) for known in array.dims]
        raise InputError(f"{address} has no dimension {dim!r}; {suggestion(dim, known)}")
    try:
        found = array.sel({dim: label})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{address} has no {dim} {label!r}: it has {_known(array[dim].values)}"
        ) from error
    if dim in found.dims and not found.sizes[dim]:
        between = f"{label.start}:{label.stop}" if isinstance(label, slice) else "an empty list"
        raise InputError(f"{address} has no {dim} in {between}: it has {_known(array[dim].values)}")
    return found


def _known(values: np.ndarray) -> str:
    shown = [str(value) for value in values]
    if len(shown) > 12:
        shown = [*shown[:6], "...", *shown[-5:]]
    return ", ".join(shown)


def _label(text: str) -> Any:
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else text
