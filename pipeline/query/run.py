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
from xarray.core import indexing

from pipeline.errors import InputError, suggestion
from pipeline.query.old import open_old
from pipeline.query.tables import Asked, answer, in_chunks, to_frame, write
from pipeline.store import Commit, OldLayoutError, Store
from pipeline.store.commits import shown
from pipeline.store.lazy import StoredArray
from pipeline.store.snapshots import Snapshot
from pipeline.store.templates import (
    LABELS,
    coordinate_attributes,
    group_attributes,
    shape_of,
    variable_attributes,
)
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.trajectories import along_steps, digest
from pipeline.store.versions import Published

__all__ = ["Asked", "ask", "open_run", "parse_selection", "select", "to_frame", "write"]

Label = int | str | slice | Sequence[int] | Sequence[str]
_KEPT = 2**22  # largest array (in numbers) that is cached in memory once it is read
_TOGETHER = 2**22  # numbers in one Dask chunk of rows


def open_run(
    uri: str | Path | Store,
    variants: Mapping[str, str] | None = None,
    chunks: Mapping[str, int] | Literal["stored"] | None = None,
    snapshot: Snapshot | None = None,
) -> xr.DataTree:
    """Open the committed rows of a store, lazily: a group per measure, in order of step.

    Each group has the coordinates step, tokens_seen (NaN where unknown), uri and digest (of the
    weights) along "step", and shows one fingerprint variant: its current one, or the one that
    `variants` names. A group without a committed row is left out, and so are the rows of
    checkpoints that the audit masks: `attrs["masked"]` of the tree has their steps and the reasons.
    `attrs["not_finite"]` has the steps with numbers that are NaN or infinite because the model's
    are, with the variables; other NaN is undefined by definition. Variables have the attributes
    `long_name` and `units`, which label xarray's plots, `unit`, `definition` and `references`;
    groups have version, parameters and input of the measure.

    An opened tree does not change: rows that are written later appear when it is opened again.
    chunks: sizes of Dask arrays, or "stored" for the stored ones (shards of trajectories, else a
    number of rows); None reads without Dask. snapshot: the state to open; None for the newest.
    Raises InputError where there is no store.
    """
    store = uri if isinstance(uri, Store) else Store(str(uri))
    try:
        snapshot = snapshot or store.snapshot()
    except OldLayoutError:
        return open_old(store.uri, variants)
    version = snapshot.version
    datasets: dict[str, xr.Dataset] = {}
    for name in sorted(version.groups):
        variant = (variants or {}).get(name) or version.current(name) or ""
        rows = shown(snapshot.of(name), variant, version.masked)
        if rows:
            published = version.published.get(name)
            if published is not None and published.variant != variant:
                published = None  # its variables may have other dimensions
            template = version.template(name, variant)
            datasets[name] = _dataset(store.uri, template, rows, published)
    if chunks is not None:
        datasets = {name: d.assign(_chunked(d, chunks)) for name, d in datasets.items()}
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = {
        "identity": ({"checkpoints": version.address} if version.address else {})
        | dict(version.identity),
        "masked": dict(version.masked),
        "not_finite": dict(version.not_finite),
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
    uri: str, template: Mapping[str, Any], rows: list[Commit], published: Published | None
) -> xr.Dataset:
    arrays = published.arrays if published else {}
    complete = published is not None and published.rows == digest(rows)
    index = tuple(range(len(rows))) if complete else None  # None: found out when it is read

    def stored(
        name: str, dims: Sequence[str], dtype: str | type, attributes: Mapping[str, str]
    ) -> xr.Variable:
        shape = () if name in LABELS else shape_of(template, name)
        along = None
        if published and name in arrays:
            along = along_steps(f"{TRAJECTORIES}/{published.folder}", name, arrays[name], index)
        array = StoredArray(uri, name, rows, shape, dtype, along)
        # As xarray's own backends do: selections are composed and read only when values are used.
        data = indexing.LazilyIndexedArray(array)
        together = along.shard if along else (max(_TOGETHER // max(prod(shape), 1), 1), *shape)
        return xr.Variable(
            dims,
            data if prod(array.shape) > _KEPT else indexing.MemoryCachedArray(data),
            attributes,
            {"preferred_chunks": dict(zip(dims, together, strict=True))},
        )

    variables = {
        name: stored(name, about["dims"], about["dtype"], variable_attributes(name, about))
        for name, about in template["variables"].items()
    }
    # The step first: xarray titles a plot with the labels of what was selected, in this order.
    coordinates: dict[str, Any] = {"step": _labels("step", [commit.step for commit in rows])}
    coordinates |= {
        name: stored(name, ("step",), dtype, coordinate_attributes(name))
        for name, dtype in LABELS.items()
        if name != "step"
    }
    coordinates |= {dim: _labels(dim, values) for dim, values in template["coordinates"].items()}
    return xr.Dataset(variables, coordinates, group_attributes(template))


def _labels(dim: str, values: Sequence[Any]) -> xr.Variable:
    found = np.array(values)
    # As xarray itself wraps an index, which of plain numbers takes longer: it imports Dask first.
    try:
        index = pd.Index(found)
    except UnicodeEncodeError:  # names with half of a surrogate pair
        index = pd.Index(found, dtype=object)
    wrapped = indexing.PandasIndexingAdapter(index, found.dtype)
    return xr.Variable(dim, wrapped, coordinate_attributes(dim))


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
    if isinstance(label, slice) and array[dim].dtype.kind in "iuf":
        texts = [end for end in (label.start, label.stop) if isinstance(end, str)]
        if texts:  # numpy would compare it with numbers, and warn
            raise InputError(
                f"{address} has no {dim} {texts[0]!r}: it has {_known(array[dim].values)}"
            )
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
