"""Trajectories: a copy of the store's numbers that is contiguous along the steps.

Rows are written checkpoint by checkpoint, so that a query for one head over a run would read one
chunk per checkpoint. `publish` rewrites the arrays in order of step, sharded, under a new name, and
then replaces one pointer: readers see either the old trajectories or the new ones.

    trajectories/current.json          the pointer: for each group its folder and its content
    trajectories/<group>.<number>/     one Zarr group, consolidated, with all its coordinates

Without `large`, arrays that have both a sequence and a position are not rewritten.
"""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from pipeline.store import Store
from pipeline.store.fingerprint import canonical_json, digest_of
from pipeline.store.layout import ROW_ARRAYS, consolidate, variable_attributes
from pipeline.store.lazy import Complete, described
from pipeline.store.markers import Commit, shown
from pipeline.store.objects import access

FOLDER = "trajectories"
POINTER = f"{FOLDER}/current.json"

# In numbers, not bytes. A chunk is the least that is read for the trajectory of one head or token:
# of this size, its request takes about as long as its transfer. A shard is one object; a slab is
# held in memory at a time.
_CHUNK, _SHARD, _SLAB = 2**17, 2**24, 2**25
_STEPS = 1024  # the most steps in one chunk


@dataclass(frozen=True)
class Published:
    """The trajectories of one group: their folder and their rows.

    rows: digest of the commits they hold. arrays: the Zarr metadata of each, which saves readers a
    request. previous: the folder before this one, kept for open readers.
    """

    folder: str
    variant: str
    rows: str
    arrays: Mapping[str, Any]
    previous: str | None = None

    def holds(self, variant: str, commits: Sequence[Commit]) -> bool:
        """Return whether these are the trajectories of exactly `commits`, in order of step."""
        return self.variant == variant and self.rows == _digest(commits)


def published(store: Store) -> dict[str, Published]:
    """Return the current trajectories by group."""
    groups = _pointer(store)["groups"]
    return {group: _published_from(entry) for group, entry in groups.items()}


def publish(store: Store, large: bool | None = None) -> dict[str, Published]:
    """Update the trajectories of every group's current variant, and point readers to them.

    large: whether arrays with both sequence and position are included (None: as before).
    Rows in earlier trajectories are read from there; only new rows are read one by one.
    For the coordinator, like all changes of metadata. Memory: about 256 MiB.
    """
    commits, catalogue = store.commits(), store.catalogue()
    before, number = published(store), _pointer(store)["number"]
    after: dict[str, Published] = {}
    for name, group in catalogue.groups.items():
        variant = str(group.attrs["current"])
        rows = shown((c for c in commits if c.group == name), variant, catalogue.masked)
        old = before.get(name)
        arrays = _arrays(group[variant].attrs["template"], large, old)
        if not rows or (old and old.holds(variant, rows) and arrays <= set(old.arrays)):
            after |= {name: old} if old else {}
            continue
        number += 1
        source = _Source(rows, group[variant], *_before(store, old, variant))
        folder = f"{name}.{number:06d}"
        metadata = _write(store, folder, arrays, source)
        previous = old.folder if old else None
        after[name] = Published(folder, variant, _digest(rows), metadata, previous)
    if after != before:  # the folders are complete now
        _point_to(store, number, after)
    _remove_unused(store, after)
    return after


def withdraw(store: Store, folders: AbstractSet[str]) -> None:
    """Remove these folders from the pointer: until the next `publish`, rows are read instead."""
    kept = {name: p for name, p in published(store).items() if p.folder not in folders}
    _point_to(store, _pointer(store)["number"], kept)


@dataclass(frozen=True)
class _Source:
    """The source of a group's numbers: its last trajectories, and the rows that they lack."""

    commits: Sequence[Commit]
    rows: Any  # the Zarr group of the variant
    before: Any  # the Zarr group of the last trajectories, or an empty mapping
    held: Mapping[str, int]  # at which index they hold which commit

    def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        """Read `part` of the other dimensions of one array, in order of step."""
        array = self.rows[name]
        index = self.held if name in self.before else {}
        held = np.array([commit.key in index for commit in self.commits])
        old = [index[commit.key] for commit in self.commits if commit.key in index]
        new = [commit.row for commit in self.commits if commit.key not in index]
        sizes = zip(part, array.shape[1:], strict=True)
        shape = [len(range(*taken.indices(size))) for taken, size in sizes]
        values = np.empty((len(held), *shape), dtype=array.dtype)
        if old:
            values[held] = self.before[name].oindex[(np.array(old), *part)]
        if new:
            values[~held] = array.oindex[(np.array(new), *part)]
        return values


def _write(
    store: Store, name: str, arrays: AbstractSet[str], source: _Source
) -> dict[str, dict[str, Any]]:
    """Write a folder of trajectories; return the metadata of its arrays."""
    template = source.rows.attrs["template"]
    folder = store.objects.zarr(f"{FOLDER}/{name}")
    attributes = {"template": template, "commits": [commit.key for commit in source.commits]}
    with access(store.uri):
        group = zarr.create_group(folder, overwrite=True, attributes=attributes)
        for dim, values in template["coordinates"].items():
            _write_coordinate(group, dim, np.array(values))
        _write_coordinate(group, "step", np.array([commit.step for commit in source.commits]))
        written = {
            name: _write_array(group, name, source, template["variables"].get(name))
            for name in sorted(arrays | (set(ROW_ARRAYS) - {"step"}))
        }
        consolidate(folder)
    return {name: described(array) for name, array in written.items()}


def _write_coordinate(group: zarr.Group, dim: str, values: np.ndarray) -> None:
    text = values.dtype.kind not in "iuf"
    array = group.create_array(
        dim, shape=values.shape, dtype=str if text else values.dtype, dimension_names=(dim,),
        chunks=values.shape, compressors=[Crc32cCodec()],
    )  # fmt: skip
    array[:] = values


def _write_array(group: zarr.Group, name: str, source: _Source, about: Any) -> zarr.Array:
    """Copy one array slab by slab. No shard spans two slabs, so each is written once."""
    stored = source.rows[name]
    shape = (len(source.commits), *stored.shape[1:])
    chunk, shard = blocks(shape)
    array = group.create_array(
        name,
        shape=shape,
        dtype=stored.dtype if about else ROW_ARRAYS[name][0],
        chunks=chunk,
        shards=shard if shard != chunk else None,
        fill_value=stored.metadata.fill_value,
        dimension_names=about["dims"] if about else ("step",),
        attributes=variable_attributes(about) if about else {},
        compressors=stored.compressors,
        config={"write_empty_chunks": True},  # an absent chunk means damage (see `lazy.Complete`)
    )
    if len(shape) == 1:
        array[:] = source.read(name, ())
        return array
    # Slabs run along the second dimension, in multiples of its shards.
    others = max(prod((shape[0], *shape[2:])), 1)  # 0 where a model has no layers
    width = max(_SLAB // others // shard[1], 1) * shard[1]
    rest = (slice(None),) * (len(shape) - 2)
    for start in range(0, shape[1], width):
        part = (slice(start, start + width), *rest)
        array[(slice(None), *part)] = source.read(name, part)
    return array


def blocks(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a chunk and of a shard of an array of trajectories."""
    chunk = _block(shape, _CHUNK)
    whole = zip(_block(shape, _SHARD), chunk, strict=True)
    # Zarr requires shards to be multiples of chunks.
    return chunk, tuple(-(-most // size) * size for most, size in whole)


def _block(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Return the shape of a block of at most `most` numbers.

    Steps are limited to `_STEPS` only; the other dimensions are cut to powers of two, beginning
    with the first, so that chunks fit into shards.
    """
    block = [min(shape[0], _STEPS), *(max(size, 1) for size in shape[1:])]
    for axis in range(1, len(block)):
        if prod(block) > most:
            fitting = max(most * block[axis] // prod(block), 1)
            block[axis] = 2 ** (fitting.bit_length() - 1)  # the largest power of two that fits
    return tuple(block)


def _pointer(store: Store) -> dict[str, Any]:
    content = store.objects.read(POINTER)
    return {"number": 0, "groups": {}} if content is None else json.loads(content)


def _point_to(store: Store, number: int, groups: Mapping[str, Published]) -> None:
    content = {"number": number, "groups": {name: asdict(p) for name, p in groups.items()}}
    store.objects.replace(POINTER, canonical_json(content).encode())


def _digest(commits: Sequence[Commit]) -> str:
    return digest_of([commit.key for commit in commits])


def _arrays(template: Any, large: bool | None, old: Published | None) -> set[str]:
    variables: Mapping[str, Any] = template["variables"]
    huge = {n for n, v in variables.items() if {"sequence", "position"} <= set(v["dims"])}
    if large is None:
        large = old is not None and bool(huge & set(old.arrays))
    return set(variables) if large else set(variables) - huge


def _published_from(entry: Mapping[str, Any]) -> Published:
    """Return an entry of the pointer; older ones call the variant `class_`."""
    entry = dict(entry)
    if "class_" in entry:
        entry["variant"] = entry.pop("class_")
    return Published(**entry)


def _before(store: Store, old: Published | None, variant: str) -> tuple[Any, dict[str, int]]:
    """Open the last trajectories of a variant; return them with the index of each commit."""
    if old is None or old.variant != variant:
        return {}, {}
    folder = store.objects.zarr(f"{FOLDER}/{old.folder}", read_only=True)
    group = zarr.open_group(Complete(folder), mode="r", zarr_format=3)
    keys: Any = group.attrs["commits"]
    return group, {key: index for index, key in enumerate(keys)}


def _remove_unused(store: Store, after: Mapping[str, Published]) -> None:
    """Remove all folders but the current and the previous ones, which a reader may have open."""
    kept = {folder for p in after.values() for folder in (p.folder, p.previous)}
    folders = {key.split("/")[1] for key in store.objects.list(FOLDER) if key != POINTER}
    for folder in sorted(folders - kept):
        store.objects.delete(f"{FOLDER}/{folder}")
