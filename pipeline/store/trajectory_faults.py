"""Faults of trajectories: compared with the committed rows, and with their own metadata."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import prod

import numpy as np
import zarr

from pipeline.errors import InputError
from pipeline.outside import parsed_json
from pipeline.store.damage import Damage, brief
from pipeline.store.lazy import Complete, described, open_described
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, checksum
from pipeline.store.store import Store
from pipeline.store.templates import LABELS
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.versions import Published, Version
from pipeline.store.zarr_groups import GROUP, ROOT

_SLAB = 2**24  # numbers held in memory at a time


def label_checksums(pack: Pack) -> dict[str, str]:
    """Return the checksums of what labels a row in trajectories."""
    made = {name: np.asarray(pack.labels[name], dtype) for name, dtype in LABELS.items()}
    return {name: _text_or_number(value) for name, value in made.items()}


def trajectory_faults(
    store: Store, published: Published, sums: Mapping[str, Mapping[str, str]]
) -> Iterator[Damage]:
    """Yield what differs in a folder of trajectories from its metadata and from the rows.

    sums: the checksums of each row's variables and labels, by the row's key.
    """
    folder = f"{TRAJECTORIES}/{published.folder}"
    opened = Complete(store.objects.zarr(folder, read_only=True))
    try:
        group = zarr.open_group(opened, mode="r", zarr_format=3)
        keys = list(group.attrs["rows"])  # type: ignore[call-overload]
        arrays = dict(published.arrays)
        for name, array in group.arrays():
            if name not in arrays:  # a coordinate
                arrays[name] = described(array)
                _ = array[...]  # it has a checksum
    except (InputError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        what = f"cannot be opened ({brief(error)})"
        yield Damage(folder, what, folder=published.folder)
        return
    for name, metadata in arrays.items():
        if _json(store.objects.read(f"{folder}/{name}/zarr.json")) != metadata:
            where, what = f"{folder}/{name}/zarr.json", "is not what was written"
            yield Damage(where, what, folder=published.folder)
    for name, metadata in published.arrays.items():
        where = f"{folder}/{name}"
        try:
            found = _checksums(open_described(opened, name, metadata))
        except (InputError, ValueError, RuntimeError) as error:
            yield Damage(where, f"cannot be read ({brief(error)})", folder=published.folder)
            continue
        for key, one in zip(keys, found, strict=True):
            if key in sums and sums[key][name] != one:
                what = f"differs from the committed row {key}"
                yield Damage(where, what, folder=published.folder)
                break


def _checksums(array: zarr.Array) -> list[str]:
    """Return the checksum of each entry along the first dimension, one slab at a time."""
    if array.ndim == 1:
        return [_text_or_number(np.asarray(value)) for value in np.asarray(array[:])]
    shards = array.shards or array.chunks
    sums = []
    for start in range(0, array.shape[0], shards[0]):
        count = min(shards[0], array.shape[0] - start)
        others = max(prod((count, *array.shape[2:])), 1)  # 0 where a model has no layers
        width = max(_SLAB // others // shards[1], 1) * shards[1]
        running = [hashlib.sha256() for _ in range(count)]
        for left in range(0, array.shape[1], width):
            slab = np.ascontiguousarray(array[start : start + count, left : left + width])
            little = slab.astype(slab.dtype.newbyteorder("<"), copy=False)
            for one, part in zip(running, little, strict=True):
                one.update(np.ascontiguousarray(part).data)
        sums += [one.hexdigest() for one in running]
    return sums


def _text_or_number(value: np.ndarray) -> str:
    if value.dtype.kind in "iuf":
        return checksum(value)
    return hashlib.sha256(str(value.item()).encode()).hexdigest()


def group_faults(objects: Objects, version: Version) -> Iterator[Damage]:
    """Yield what lets Zarr alone list the trajectories, where it is not as it was written."""
    folders = {one.folder.partition("/")[0] for one in version.published.values()}
    places = [TRAJECTORIES, *(f"{TRAJECTORIES}/{folder}" for folder in sorted(folders))]
    wanted = {"zarr.json": ROOT} | {f"{place}/zarr.json": GROUP for place in places if folders}
    for key, group in wanted.items():
        found = _json(objects.read(key))
        if not isinstance(found, dict) or found.get("node_type") != "group":
            anew = {key: json.dumps(group).encode()}
            yield Damage(key, "is no metadata of a Zarr group", made_anew=anew)


def _json(content: bytes | None) -> object:
    try:
        return parsed_json(content or b"", finite=False)
    except ValueError:
        return None
