"""Questions to a store: open it as labelled arrays, select by label, write a table.

`open_run` reads names and metadata only; numbers are read when they are needed, from the
trajectories where these are up to date, and else from the rows.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from rich.console import Console
from rich.table import Table
from xarray.core import indexing

from pipeline.aggregate.trajectories import FOLDER as TRAJECTORIES
from pipeline.aggregate.trajectories import Published, blocks, published
from pipeline.errors import InputError, suggestion
from pipeline.layout import DESCRIBED, ROW_ARRAYS
from pipeline.lazy import Form, StoredArray, described
from pipeline.markers import Commit
from pipeline.rows import ROWS
from pipeline.schema import DIMENSIONS
from pipeline.store import Store, latest

Format = Literal["table", "csv", "json", "parquet"]
Label = int | str | slice | Sequence[int] | Sequence[str]
_KEPT = 2**22  # arrays of so many numbers stay in memory once they were read whole
TABLE_ROWS = 200  # a table is for reading; the other formats are for all of it


def open_run(
    uri: str | Path | Store,
    classes: Mapping[str, str] | None = None,
    chunks: Mapping[str, int] | Literal["auto"] | None = None,
) -> xr.DataTree:
    """The committed rows of a store, lazily: a group per measure, in order of step.

    Each group has the coordinates step, tokens_seen (NaN where unknown), uri and digest (of the
    weights) along "step", and shows one fingerprint class: its current one, or the one that
    `classes` names. A group without a committed row is left out. Variables carry `unit`,
    `definition` and `reference`; groups carry what the measure was computed with.

    What was opened does not change: rows that are written later appear when it is opened again.
    chunks: sizes of Dask arrays; None reads without Dask. InputError where there is no store.
    """
    store = uri if isinstance(uri, Store) else Store(str(uri))
    commits = store.commits()  # before the groups: see pipeline.store
    catalogue, trajectories = store.catalogue(), published(store)
    datasets: dict[str, xr.Dataset] = {}
    for name, group in catalogue.groups.items():
        class_ = (classes or {}).get(name) or str(group.attrs["current"])
        rows = list(latest((c for c in commits if c.group == name), class_).values())
        if rows:
            ready = trajectories.get(name)
            ready = ready if ready and ready.holds(class_, rows) else None
            datasets[name] = _dataset(store.uri, f"{name}/{class_}", group[class_], rows, ready)
    if chunks is not None:
        datasets = {name: _chunked(dataset, chunks) for name, dataset in datasets.items()}
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = {"identity": dict(catalogue.identity)}
    return tree


def select(tree: xr.DataTree, address: str, **labels: Label) -> xr.DataArray:
    """One variable, "group/variable", at the given labels of its dimensions.

    A label selects one entry, a list several, a slice all between two labels, both included.
    InputError, with the nearest name, for a group, variable, dimension or label that is not there.
    """
    group, _, name = address.rpartition("/")
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


def parse_selection(text: str) -> Label:
    """A label as it is typed: "100" or "W_E" (one), "1,2,5" (several), "100:500" (a slice)."""
    if ":" in text:
        start, _, stop = text.partition(":")
        return slice(_label(start) if start else None, _label(stop) if stop else None)
    if "," in text:
        return [_label(part) for part in text.split(",") if part]  # type: ignore[return-value]
    return _label(text)


def to_frame(array: xr.DataArray) -> pd.DataFrame:
    """One row per number: its labels, the tokens seen at its step (<NA> unknown), and the value."""
    labels = [dim for dim in DIMENSIONS if dim in array.coords]
    name = str(array.name or "value")
    array = array.drop_vars([n for n in ("uri", "digest") if n in array.coords]).compute()
    whole = array.expand_dims([dim for dim in labels if dim not in array.dims])
    frame = whole.to_dataframe(name).reset_index()
    if "tokens_seen" in frame:
        frame["tokens_seen"] = frame["tokens_seen"].astype("Int64")
    order = [*labels, *(["tokens_seen"] if "tokens_seen" in frame else []), name]
    return frame.loc[:, order]


def write(frame: pd.DataFrame, format: Format, stream: IO[Any]) -> None:
    """Write a table to a stream; Parquet needs a binary one, or a text one with a buffer."""
    if format == "csv":
        frame.to_csv(stream, index=False)
    elif format == "json":
        frame.to_json(stream, orient="records", double_precision=15)
        stream.write("\n")
    elif format == "parquet":
        frame.to_parquet(getattr(stream, "buffer", stream), index=False)
    elif format == "table":
        _write_table(frame, stream)
    else:
        known = ("table", "csv", "json", "parquet")
        raise InputError(f"unknown format {format!r}; {suggestion(format, known)}")


def _dataset(
    uri: str, path: str, group: Any, rows: list[Commit], ready: Published | None
) -> xr.Dataset:
    template = group.attrs["template"]
    numbers = tuple(commit.row for commit in rows)

    def lazily(name: str, dtype: str | type) -> indexing.ExplicitlyIndexed:
        stored: zarr.Array = group[name]
        shape, chunk = (len(rows), *stored.shape[1:]), stored.chunks
        forms = [Form(ROWS, f"{path}/{name}", chunk, chunk, described(stored), numbers)]
        if ready and name in ready.arrays:
            folder = f"{TRAJECTORIES}/{ready.folder}"
            forms.append(Form(folder, name, *blocks(shape), ready.arrays[name]))
        array = indexing.LazilyIndexedArray(StoredArray(uri, forms, shape, dtype))
        return array if prod(shape) > _KEPT else indexing.MemoryCachedArray(array)

    variables = {
        name: xr.Variable(
            about["dims"],
            lazily(name, about["dtype"]),
            {key: about[key] for key in DESCRIBED},
        )
        for name, about in template["variables"].items()
    }
    coordinates: dict[str, Any] = {
        name: xr.Variable("step", lazily(name, object if dtype is str else dtype))
        for name, (dtype, _) in ROW_ARRAYS.items()
        if name != "step"
    }
    coordinates["step"] = np.array([commit.step for commit in rows])
    coordinates |= {dim: np.array(values) for dim, values in template["coordinates"].items()}
    return xr.Dataset(variables, coordinates, template["attributes"])


def _chunked(dataset: xr.Dataset, chunks: Mapping[str, int] | Literal["auto"]) -> xr.Dataset:
    """With the variables as Dask arrays; what labels a step stays as it is."""
    return dataset.assign(
        {
            name: array.variable.chunk(
                chunks if chunks == "auto" else {d: n for d, n in chunks.items() if d in array.dims}
            )
            for name, array in dataset.data_vars.items()
        }
    )


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


def _write_table(frame: pd.DataFrame, stream: IO[Any]) -> None:
    table = Table(*frame.columns)
    for row in frame.head(TABLE_ROWS).itertuples(index=False):
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row))
    console = Console(file=stream)
    console.print(table)
    if (more := len(frame) - TABLE_ROWS) > 0:
        console.print(f"... and {more} rows more: narrow the selection, or ask for csv or parquet")
