"""Trajectories: the store's numbers a second time, as plain Zarr arrays along the steps.

Rows are written checkpoint by checkpoint, so that a question about one head over a run would read
one object per checkpoint. `publish` writes the arrays in order of step, sharded, into a folder of
a fresh name, and then makes a version that refers to it: readers see the old trajectories or the
new ones, whole.

    published/<generation>/<group>.<id>/    one Zarr group, consolidated, with all its coordinates
    published/, published/<generation>/     empty groups, so that Zarr lists those

Shards that hold the same rows as before are not written again: their objects are copied, or get a
second name where the file system has hard links.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from pipeline.store.access import access
from pipeline.store.chunk_shapes import blocks, slabs
from pipeline.store.commits import Commit, fresh_id, shown
from pipeline.store.fingerprint import digest_of
from pipeline.store.lazy import Along, StoredArray, described, rows_in
from pipeline.store.snapshots import Snapshot
from pipeline.store.store import Store
from pipeline.store.templates import (
    LABELS,
    coordinate_attributes,
    dtype_of,
    group_attributes,
    shape_of,
    variable_attributes,
)
from pipeline.store.versions import Published, Version
from pipeline.store.zarr_groups import GROUP

FOLDER = "published"

_FILLS = {"f": float("nan"), "i": 0}


def digest(commits: Sequence[Commit]) -> str:
    """Return the digest of rows by which trajectories say what they hold."""
    return digest_of([commit.key for commit in commits])


def publish(store: Store) -> Version:
    """Bring the trajectories of every group's current variant up to date; return the version.

    Rows that earlier trajectories hold are read from there, and only new rows one by one. Memory:
    about 256 MiB.
    """
    version = None
    while version is None:
        version = _publish_once(store)
    return version


def _publish_once(store: Store) -> Version | None:
    """Publish, or return None where the generation was closed meanwhile.

    What was written in it may be removed at any moment then, also while it is being written.
    """
    snapshot = store.snapshot()
    try:
        _make_groups(store, snapshot.version)
        found = {group: _published(store, snapshot, group) for group in snapshot.version.groups}
    except Exception:
        if store.version().open == snapshot.version.open:
            raise
        return None
    made = {group: one for group, one in found.items() if one is not None}
    version = store.versions.change(lambda now: _with(now, snapshot.version, made))
    is_there = all(version.published.get(group) == one for group, one in made.items())
    return version if is_there else None


def _make_groups(store: Store, version: Version) -> None:
    """Make Zarr groups of the folders above the trajectories, once per generation."""
    if not any(one.folder.startswith(f"{version.open}/") for one in version.published.values()):
        content = json.dumps(GROUP).encode()
        places = (FOLDER, f"{FOLDER}/{version.open}")
        store.objects.put({f"{place}/zarr.json": content for place in places})


def withdraw(store: Store, folders: set[str]) -> None:
    """Refer to these folders no longer: until the next `publish`, rows are read in their place."""

    def change(version: Version) -> Version:
        kept = {g: one for g, one in version.published.items() if one.folder not in folders}
        return replace(version, published=kept)

    store.versions.change(change)


def _with(version: Version, seen: Version, made: Mapping[str, Published]) -> Version:
    """Refer to new trajectories, of groups that no other coordinator has published meanwhile."""
    if version.open != seen.open:
        return version
    published = dict(version.published)
    for group, one in made.items():
        if version.published.get(group) == seen.published.get(group):
            published[group] = one
    return replace(version, published=published)


def _published(store: Store, snapshot: Snapshot, group: str) -> Published | None:
    """Write the trajectories of a group, unless they are there; None where it shows no row."""
    version = snapshot.version
    variant, old = version.current(group), version.published.get(group)
    if variant is None:
        return None
    rows = shown(snapshot.of(group), variant, version.masked)
    if not rows:
        return None
    if old is not None and (old.variant, old.rows) == (variant, digest(rows)):
        return old
    source = _Source.of(store, rows, version.template(group, variant), old)
    folder = f"{version.open}/{group}.{fresh_id()}"
    metadata = _write(store, f"{FOLDER}/{folder}", source)
    return Published(folder, variant, digest(rows), metadata, old.folder if old else None)


@dataclass(frozen=True)
class _Source:
    """The source of the numbers of a group.

    before: the folder of the last trajectories, with the keys of the rows that it holds in order.
    """

    store: Store
    commits: Sequence[Commit]
    template: Mapping[str, Any]
    arrays: Mapping[str, Any]
    before: str
    held: Sequence[str]

    @classmethod
    def of(
        cls,
        store: Store,
        rows: Sequence[Commit],
        template: Mapping[str, Any],
        old: Published | None,
    ) -> "_Source":
        """Return the source of these rows, with the trajectories that hold some of them."""
        if old is None or old.variant != rows[0].variant:
            return cls(store, rows, template, {}, "", ())
        before = f"{FOLDER}/{old.folder}"
        return cls(store, rows, template, old.arrays, before, rows_in(store.uri, before))

    def unchanged(self) -> int:
        """Return how many rows, from the first, are where they were before."""
        count = 0
        for commit, key in zip(self.commits, self.held, strict=False):
            if commit.key != key:
                break
            count += 1
        return count

    def array(self, name: str) -> StoredArray:
        """Return a variable or label in order of step, from the last trajectories and packs."""
        labels = name in LABELS
        dtype = LABELS[name] if labels else dtype_of(self.template, name)
        shape = () if labels else shape_of(self.template, name)
        along = None
        if name in self.arrays:
            place = {key: index for index, key in enumerate(self.held)}
            index = tuple(place.get(commit.key, -1) for commit in self.commits)
            along = along_steps(self.before, name, self.arrays[name], index)
        return StoredArray(self.store.uri, name, self.commits, shape, dtype, along)


def along_steps(
    folder: str, name: str, metadata: Mapping[str, Any], index: tuple[int, ...] | None
) -> Along:
    """Return an array of a folder of trajectories, for a reader of rows with these places in it."""
    shard = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    first = metadata["codecs"][0]
    sharded = first["name"] == "sharding_indexed"
    chunk = tuple(first["configuration"]["chunk_shape"]) if sharded else shard
    return Along(folder, name, chunk, shard, index, metadata)


class _OwnFolder(WrapperStore[ZarrStore]):
    """A folder that no other process writes to.

    Zarr makes the metadata of parents by hard links, which not every file system has.
    """

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object unless it is there."""
        if not await self._store.exists(key):
            await self._store.set(key, value)


def consolidate(folder: ZarrStore) -> None:
    """Gather the metadata of all that is in a folder, so that opening it takes one request."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        warnings.filterwarnings("ignore", "Object at .*[.]partial")  # of a writer that was killed
        zarr.consolidate_metadata(folder, zarr_format=3)


def _write(store: Store, folder: str, source: _Source) -> dict[str, dict[str, Any]]:
    """Write a folder of trajectories; return the metadata of its arrays."""
    template, commits = source.template, source.commits
    attributes = {
        **group_attributes(template),
        "rows": [commit.key for commit in commits],
        "coordinates": " ".join(name for name in LABELS if name != "step"),  # as xarray names them
    }
    with access(store.uri):
        group = zarr.create_group(_OwnFolder(store.objects.zarr(folder)), attributes=attributes)
        for dim, values in template["coordinates"].items():
            _write_coordinate(group, dim, np.array(values))
        _write_coordinate(group, "step", np.array([commit.step for commit in commits]))
        names = sorted({*template["variables"], *LABELS} - {"step"})
        written = {name: _write_array(folder, group, name, source) for name in names}
        consolidate(store.objects.zarr(folder))
        store.objects.sync(folder)
    return {name: described(array) for name, array in written.items()}


def _write_coordinate(group: zarr.Group, dim: str, values: np.ndarray) -> None:
    text, attributes = values.dtype.kind not in "iuf", dict[str, Any](coordinate_attributes(dim))
    array = group.create_array(
        dim, shape=values.shape, dtype=str if text else values.dtype, dimension_names=(dim,),
        chunks=values.shape, compressors=[Crc32cCodec()], attributes=attributes,
        # [0] is what Zarr fills in, and would not be written: it could not be told from a lost one.
        config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = values


def _write_array(folder: str, group: zarr.Group, name: str, source: _Source) -> zarr.Array:
    """Write one array block by block; each shard lies in one block, so that it is written once."""
    read, about = source.array(name), source.template["variables"].get(name)
    dtype: Any = LABELS[name] if about is None else read.dtype
    chunk, shard = blocks(read.shape, 8 if about is None else read.dtype.itemsize)
    compress = [] if dtype is str else [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")]
    attributes: Any = variable_attributes(name, about) if about else coordinate_attributes(name)
    array = group.create_array(
        name,
        shape=read.shape,
        dtype=dtype,
        chunks=chunk,
        shards=shard if shard != chunk else None,
        fill_value="" if dtype is str else _FILLS[np.dtype(dtype).kind],
        dimension_names=about["dims"] if about else ("step",),
        attributes=attributes,
        compressors=[*compress, Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    done = _copy_shards(folder, name, source, described(array))
    for key in slabs(read.shape, shard, done):
        array[key] = read.read(key)
    return array


def _copy_shards(folder: str, name: str, source: _Source, metadata: Mapping[str, Any]) -> int:
    """Copy the shards that hold the same rows as before; return how many rows they hold."""
    old = source.arrays.get(name)
    if old is None or {**old, "shape": 0} != {**metadata, "shape": 0}:
        return 0
    if old["shape"][1:] != metadata["shape"][1:]:
        return 0
    steps = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    full = source.unchanged() // steps
    before, after = f"{source.before}/{name}/c/", f"{folder}/{name}/c/"
    for key in source.store.objects.list(f"{source.before}/{name}/c"):
        shard = key.removeprefix(before)
        if int(shard.partition("/")[0]) < full:
            source.store.objects.copy(key, after + shard)
    return full * steps
