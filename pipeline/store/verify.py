"""Verification of every committed row and every trajectory against the checksums in the markers."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import zarr

from pipeline.errors import InputError, first_line
from pipeline.store import Store, trajectories
from pipeline.store.lazy import Complete, open_described
from pipeline.store.lease import owned
from pipeline.store.markers import Commit
from pipeline.store.rows import checksum
from pipeline.store.trajectories import Published

_SLAB = 2**24  # numbers held in memory at a time


@dataclass(frozen=True)
class Damage:
    """A difference from what was committed. commit: the damaged row; None for trajectories."""

    where: str
    what: str
    commit: Commit | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Verified:
    """The result of a verification: rows checked, faults, and whether they were repaired."""

    rows: int
    faults: tuple[Damage, ...]
    repaired: bool = False


def verify(store: Store, repair: bool = False) -> Verified:
    """Read every committed row and all trajectories, and compare them with the rows' checksums.

    repair: hide what is damaged, so that the next analysis computes it again: the row's marker is
    removed (with those of older rows of its step, which would become visible instead), and damaged
    trajectories are removed from the pointer. Raises InputError where there is no store, or, for a
    repair, while an analysis owns it.
    """
    if not repair:
        return _verified(store)
    with owned(store):
        found = _verified(store)
        _repair(store, found.faults)
    return Verified(found.rows, found.faults, repaired=True)


def _verified(store: Store) -> Verified:
    commits, groups = store.commits(), store.catalogue().groups
    markers, faults = {}, []
    for commit in commits:
        try:
            markers[commit.key] = store.marker(commit)["checksums"]
        except (ValueError, KeyError, TypeError):
            faults.append(_fault(commit, "its marker cannot be read"))
            continue
        faults += _row_faults(groups.get(commit.group), commit, markers[commit.key])
    for group, ready in trajectories.published(store).items():
        faults += _trajectory_faults(store, group, ready, markers)
    return Verified(len(commits), tuple(faults))


def _row_faults(group: Any, commit: Commit, expected: Mapping[str, str]) -> Iterator[Damage]:
    arrays = group.get(commit.variant) if group is not None else None
    if arrays is None:
        yield _fault(commit, "its arrays are gone")
        return
    for name, wanted in expected.items():
        try:
            found = checksum(np.asarray(arrays[name][commit.row]))
        except (InputError, ValueError, RuntimeError, LookupError) as error:
            yield _fault(commit, f"{name} cannot be read ({_brief(error)})")
            continue
        if found != wanted:
            yield _fault(commit, f"{name} is not what was committed")


def _trajectory_faults(
    store: Store, group: str, ready: Published, markers: Mapping[str, Mapping[str, str]]
) -> Iterator[Damage]:
    folder = f"{trajectories.FOLDER}/{ready.folder}"
    opened = Complete(store.objects.zarr(folder, read_only=True))
    try:
        keys: Any = zarr.open_group(opened, mode="r", zarr_format=3).attrs["commits"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        yield Damage(folder, f"cannot be opened ({_brief(error)})")
        return
    for name, metadata in ready.arrays.items():
        try:
            found = _checksums(open_described(opened, name, metadata))
        except (InputError, ValueError, RuntimeError) as error:
            yield Damage(f"{folder}/{name}", f"cannot be read ({_brief(error)})")
            continue
        for key, one in zip(keys, found, strict=True):
            # Trajectories may hold rows that were recomputed since, and whose markers are gone.
            if key in markers and markers[key][name] != one:
                yield Damage(f"{folder}/{name}", f"differs from the committed row {key}")
                break  # one difference is enough: a repair withdraws the whole folder


def _checksums(array: zarr.Array) -> list[str]:
    """Return the checksum of each entry along the first dimension.

    Reads one slab of the second dimension at a time: slabs along the first would read each shard,
    which spans many steps, several times.
    """
    if array.ndim == 1:
        return [checksum(np.asarray(value)) for value in np.asarray(array[:])]
    shards = array.shards or array.chunks
    others = max(prod((array.shape[0], *array.shape[2:])), 1)  # 0 where a model has no layers
    width = max(_SLAB // others // shards[1], 1) * shards[1]
    running = [hashlib.sha256() for _ in range(array.shape[0])]
    for start in range(0, array.shape[1], width):
        slab = np.ascontiguousarray(array[:, start : start + width])
        little = slab.astype(slab.dtype.newbyteorder("<"), copy=False)
        for one, part in zip(running, little, strict=True):
            one.update(np.ascontiguousarray(part).data)
    return [one.hexdigest() for one in running]


def _repair(store: Store, faults: Iterable[Damage]) -> None:
    damaged = [fault.commit for fault in faults if fault.commit is not None]
    for bad in damaged:
        older = [c for c in store.commits(bad.group) if _same_cell(c, bad) and c.row <= bad.row]
        store.objects.delete_all([commit.key for commit in older])
    folders = {fault.where.split("/")[1] for fault in faults if fault.commit is None}
    if folders:
        trajectories.withdraw(store, folders)


def _same_cell(one: Commit, other: Commit) -> bool:
    return one.variant == other.variant and one.step == other.step


def _fault(commit: Commit, what: str) -> Damage:
    return Damage(f"{commit.group} at step {commit.step} (row {commit.row})", what, commit)


def _brief(error: Exception) -> str:
    return first_line(error)[:160]
