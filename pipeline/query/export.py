"""Copies of a store as plain Zarr or netCDF, which open without this package.

A copy holds the numbers, labels and attributes that `open_run` shows. Variables are copied shard by
shard, so that memory stays bounded whatever the size of the run.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from pipeline.errors import InputError, suggestion
from pipeline.extras import require
from pipeline.progress import Progress
from pipeline.query.run import open_run
from pipeline.store.access import access
from pipeline.store.chunk_shapes import blocks
from pipeline.store.fingerprint import plain_json
from pipeline.store.objects import Objects
from pipeline.store.trainer_log import FOLDER as TRAINER_LOG
from pipeline.store.trajectories import consolidate
from pipeline.writing import whole_file, whole_folder

FORMATS = ("zarr", "netcdf")
# Shards copied at the same time. A large one takes about 200 MB until it is compressed.
_AT_ONCE = 2


@dataclass(frozen=True)
class Exported:
    """Summary of an export: its target, and the groups, variables and bytes of numbers in it.

    left_out: sentences on what the store holds and the copy does not.
    """

    target: str
    format: str
    groups: int
    variables: int
    bytes: int
    left_out: tuple[str, ...] = ()


def export(
    uri: str | Path,
    target: str | Path,
    format: str = "zarr",
    progress: Progress = lambda *_: None,
) -> Exported:
    """Write what `open_run` shows of a store to `target`, which must not exist yet.

    zarr: one consolidated Zarr v3 hierarchy with a group per measure, on disk or S3. netcdf: one
    netCDF-4 file on disk; attributes other than texts and numbers become JSON texts. On disk the
    target appears under its name once it is complete. On S3 its root is written last, so that an
    interrupted export does not open; remove what it left. progress: told the groups that are
    copied, their number, and the name of the next one.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}; {suggestion(format, FORMATS)}")
    if format == "netcdf":
        _check_netcdf(str(target))
    tree, there = open_run(uri), Objects(str(target))
    _check_free(there, Objects(str(uri)))
    groups = {str(name): _plain(node.to_dataset()) for name, node in tree.children.items()}
    if not groups:
        raise InputError(f"{uri}: the store holds nothing yet: run its analysis")
    write = _write_netcdf if format == "netcdf" else _write_zarr
    write(there, groups, plain_json(tree.attrs), progress)
    progress(len(groups), len(groups), list(groups)[-1])
    return Exported(
        there.uri,
        format,
        len(groups),
        sum(len(dataset.data_vars) for dataset in groups.values()),
        sum(dataset.nbytes for dataset in groups.values()),
        tuple(_left_out(Objects(str(uri)))),
    )


def _left_out(store: Objects) -> Iterator[str]:
    if store.first(f"{TRAINER_LOG}/") is not None:
        yield (
            f"{store.uri}: the Trainer's log is not copied: `ontogeny query {store.uri} "
            f"{TRAINER_LOG}/loss` prints it"
        )


def _check_free(target: Objects, store: Objects) -> None:
    if target.uri == store.uri or target.uri.startswith(f"{store.uri}/"):
        raise InputError(f"{target.uri}: lies in the store: choose another place")
    try:
        taken = os.path.lexists(target.uri) if target.is_local else target.first("") is not None
    except FileNotFoundError:
        taken = False
    if taken:
        raise InputError(f"{target.uri}: exists already: choose another place, or remove it")


def _check_netcdf(target: str) -> None:
    if not Objects(target).is_local:
        raise InputError(f"{target}: a netCDF file is written to a disk only: give a path")
    if find_spec("netCDF4") is None:
        require("h5netcdf", "h5py")  # h5netcdf writes through h5py, and only reads without it


def _plain(dataset: xr.Dataset) -> xr.Dataset:
    """Return a group with its variables as Dask arrays of one chunk per shard.

    Coordinates are small and are loaded. Attributes are plain JSON.
    """
    variables = {}
    for name, array in dataset.data_vars.items():
        _, shard = blocks(array.shape, array.dtype.itemsize)
        chunked = array.variable.chunk(dict(zip(array.dims, shard, strict=True)))
        variables[name] = chunked.drop_encoding()
    labels = {name: _label(array.variable.load()) for name, array in dataset.coords.items()}
    return xr.Dataset(variables, labels, plain_json(dataset.attrs))


def _label(variable: xr.Variable) -> xr.Variable:
    """Return a coordinate; texts with any length, since Zarr specifies no others."""
    return (variable.astype(object) if variable.dtype.kind == "U" else variable).drop_encoding()


def _write_zarr(
    target: Objects, groups: Mapping[str, xr.Dataset], attributes: Any, progress: Progress
) -> None:
    with access(target.uri), _draft(target) as place:
        try:
            for index, (name, dataset) in enumerate(groups.items()):
                progress(index, len(groups), name)
                _write_group(place, name, dataset)
            # The root comes last, because the hierarchy cannot be opened before it is there.
            zarr.create_group(place.zarr(), attributes=attributes)
            consolidate(place.zarr())
        except FileNotFoundError as error:
            if target.is_local:
                raise
            raise InputError(f"{target.uri}: there is no such bucket: create it first") from error
        place.sync("")


def _write_group(place: Objects, name: str, dataset: xr.Dataset) -> None:
    delayed = dataset.to_zarr(
        place.zarr(name),
        mode="w-",
        zarr_format=3,
        consolidated=False,
        encoding={str(n): _encoding(array) for n, array in dataset.data_vars.items()},
        compute=False,
    )
    delayed.compute(scheduler="threads", num_workers=_AT_ONCE)


def _encoding(array: xr.DataArray) -> dict[str, Any]:
    chunk, shard = blocks(array.shape, array.dtype.itemsize)
    return {"chunks": chunk, "shards": shard if shard != chunk else None}


@contextmanager
def _draft(target: Objects) -> Iterator[Objects]:
    """Yield a folder that is renamed to the target at the end; on S3, the target itself."""
    if not target.is_local:
        yield target
        return
    Path(target.uri).parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(Path(target.uri)) as folder:
        yield Objects(str(folder))


@contextmanager
def _draft_file(target: Objects) -> Iterator[Path]:
    Path(target.uri).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(Path(target.uri)) as draft:
        yield draft


def _write_netcdf(
    target: Objects, groups: Mapping[str, xr.Dataset], attributes: Any, progress: Progress
) -> None:
    engine = "netcdf4" if find_spec("netCDF4") else "h5netcdf"
    with access(target.uri), _draft_file(target) as draft:
        xr.Dataset(attrs=_flat(attributes)).to_netcdf(draft, mode="w", engine=engine)
        for index, (name, dataset) in enumerate(groups.items()):
            progress(index, len(groups), name)
            flat = dataset.assign_attrs(_flat(dataset.attrs))
            encoding = {str(n): _compressed(array) for n, array in flat.data_vars.items()}
            written = flat.to_netcdf(
                draft, mode="a", group=name, engine=engine, encoding=encoding, compute=False
            )
            written.compute(scheduler="threads", num_workers=_AT_ONCE)


def _flat(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as texts and numbers, the only kinds that netCDF stores."""
    return {
        name: value
        if isinstance(value, str | int | float) and not isinstance(value, bool)
        else json.dumps(value, ensure_ascii=False)
        for name, value in attributes.items()
    }


def _compressed(array: xr.DataArray) -> dict[str, Any]:
    """Return the encoding of a variable for netCDF, whose chunks may not exceed its shape."""
    if not array.size:
        return {}
    chunk, _ = blocks(array.shape, array.dtype.itemsize)
    return {"zlib": True, "complevel": 1, "chunksizes": tuple(map(min, chunk, array.shape))}
