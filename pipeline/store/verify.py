"""Verification: every object of a store against the checksums that it was written with."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import zarr

from pipeline.errors import InputError, first_line
from pipeline.outside import parsed_json
from pipeline.store.commits import LARGE, PACKS, Commit
from pipeline.store.inputs import INPUTS, decode_input, decode_texts
from pipeline.store.lazy import Complete, described, open_described
from pipeline.store.lease import FOLDER as LEASES
from pipeline.store.lease import owned, read_lease
from pipeline.store.non_finite import FOLDER as NON_FINITE
from pipeline.store.non_finite import row_key
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, checksum, decode
from pipeline.store.results import FOLDER as RESULTS
from pipeline.store.results import check
from pipeline.store.sealed import DamagedError, unseal
from pipeline.store.store import REFERENCES, Store
from pipeline.store.templates import LABELS
from pipeline.store.trainer_log import FOLDER as TRAINER_LOG
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.trajectories import withdraw
from pipeline.store.versions import FOLDER as VERSIONS
from pipeline.store.versions import NO_OBJECT, Published, Version, key_of
from pipeline.store.zarr_groups import GROUP, ROOT

_SLAB = 2**24  # numbers held in memory at a time
SENT_RECORD = "_sent.json"  # what experiment trackers have received
_OURS = (
    VERSIONS, PACKS, LARGE, TRAJECTORIES, INPUTS, REFERENCES, LEASES,
    NON_FINITE, RESULTS, "_probe", "_announced.json", SENT_RECORD, TRAINER_LOG, "zarr.json",
)  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    commit: the row. folder: of the trajectories. key: of an object that the next analysis makes
    anew. made_anew: what an object has to contain. At most one is given; none where nothing can be
    rebuilt.
    """

    where: str
    what: str
    commit: Commit | None = None
    folder: str | None = None
    key: str | None = None
    made_anew: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Verified:
    """The number of rows that were checked, the faults, and whether they were repaired.

    foreign: keys of what no version of a store writes; nothing reads it.
    """

    rows: int
    faults: tuple[Damage, ...]
    repaired: bool = False
    foreign: tuple[str, ...] = ()


def verify(store: Store, repair: bool = False) -> Verified:
    """Read all that a store holds, and compare it with its checksums.

    repair: what is damaged becomes invisible, so that the next analysis makes it again: rows are
    shown to nobody (nor are older rows of the same step), trajectories are referred to no longer,
    inputs, references, results, leases and what is known not to be finite are removed. Where the
    newest version is damaged, the one before it becomes the newest, with all rows that are there.
    InputError where there is no store, or, for a repair, while an analysis owns it.
    """
    versions = list(_version_faults(store, repair))
    with owned(store) if repair else nullcontext():
        found = _verified(store)
        if repair:
            _repair(store, found.faults)
    return replace(found, faults=(*versions, *found.faults), repaired=repair)


def _version_faults(store: Store, repair: bool) -> Iterator[Damage]:
    """Yield the versions that are damaged; with `repair`, put a good one in the newest's place."""
    newest = store.versions.newest_number()
    numbers: list[int] = sorted({*store.versions.numbers(), *([newest] if newest else [])})
    damaged: set[int] = set()
    for number in numbers:
        try:
            # An older one may have been removed since it was listed.
            if store.versions.get(number) is None and number == store.versions.newest_number():
                damaged.add(number)
                yield Damage(key_of(number), NO_OBJECT)
        except InputError as error:
            damaged.add(number)
            yield Damage(key_of(number), first_line(error).partition(f"{key_of(number)} ")[2])
    good = [number for number in numbers if number not in damaged]
    if repair and damaged and not good:
        raise InputError(
            f"{store.uri}: every version is damaged ({key_of(max(damaged))} is the newest), and "
            "nothing else tells what the rows are: put one back from a copy, or analyse again into "
            "another store"
        )
    if repair and good and max(numbers) in damaged:
        _restore(store, good[-1], max(numbers))
    if repair and good:
        store.objects.delete_all([key_of(number) for number in damaged])


def _restore(store: Store, number: int, damaged: int) -> None:
    """Make a good version the newest, with the rows of all generations that may have been sealed.

    Rows that a damaged version dropped come back; they are verified next.
    """
    good = store.versions.get(number)
    assert good is not None
    generations = {
        int(parts[1])
        for key in store.objects.list(PACKS)
        if len(parts := key.split("/")) > 3 and parts[1].isdecimal()
    }
    # A generation that a damaged version may have opened is never opened again: no version has a
    # higher number of its open generation than one more than its own number.
    opened = max({good.open, damaged + 1, *generations}) + 1
    closing = sorted(generations | {*good.closing, good.open})
    store.versions.restore(replace(good, open=opened, closing=tuple(closing)), damaged)


def _verified(store: Store) -> Verified:
    snapshot = store.snapshot()
    packs: dict[str, Pack] = {}
    faults: list[Damage] = []
    for commit in snapshot.commits:
        try:
            packs[commit.key] = decode(store.objects.read(commit.key) or b"")
        except DamagedError as error:
            faults.append(_of_row(commit, str(error)))
            continue
        faults += _row_faults(store, commit, packs[commit.key])
    sums = {key: {**_labels(pack), **pack.checksums} for key, pack in packs.items()}
    for published in snapshot.version.published.values():
        faults += _trajectory_faults(store, published, sums)
    faults += _input_faults(store.objects)
    faults += _sealed_faults(store.objects, REFERENCES)
    faults += _result_faults(store.objects)
    faults += _non_finite_faults(store.objects, snapshot.commits)
    faults += _lease_faults(store.objects)
    faults += _group_faults(store.objects, snapshot.version)
    foreign = tuple(key for key in store.objects.list() if not _is_ours(key))
    return Verified(len(snapshot.commits), tuple(faults), foreign=foreign)


def _row_faults(store: Store, commit: Commit, pack: Pack) -> Iterator[Damage]:
    row = pack.header["row"]
    if (row["step"], row["fingerprint"]) != (commit.step, commit.fingerprint):
        yield _of_row(commit, "is the object of another row")
        return
    for name, wanted in pack.checksums.items():
        try:
            large = None
            if (
                pack.is_large(name)
                and (large := store.objects.read(commit.large_key(name))) is None
            ):
                raise DamagedError(f"{name} is gone")
            found = checksum(pack.array(name, large))
        except (DamagedError, ValueError, RuntimeError) as error:
            yield _of_row(commit, str(error))
            continue
        if found != wanted:
            yield _of_row(commit, f"{name} is not what was committed")


def _labels(pack: Pack) -> dict[str, str]:
    """Return the checksums of what labels a row in trajectories."""
    made = {name: np.asarray(pack.labels[name], dtype) for name, dtype in LABELS.items()}
    return {name: _text_or_number(value) for name, value in made.items()}


def _trajectory_faults(
    store: Store, published: Published, sums: Mapping[str, Mapping[str, str]]
) -> Iterator[Damage]:
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
        what = f"cannot be opened ({_brief(error)})"
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
            yield Damage(where, f"cannot be read ({_brief(error)})", folder=published.folder)
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


def _input_faults(objects: Objects) -> Iterator[Damage]:
    """Every member of an input's file has a checksum, which reading it compares."""
    for key in objects.list(INPUTS):
        try:
            content = objects.read(key) or b""
            decode_input(content)
            decode_texts(content)
        except Exception as error:
            yield Damage(key, f"cannot be read ({_brief(error)})", key=key)


def _sealed_faults(objects: Objects, folder: str) -> Iterator[Damage]:
    for key in objects.list(folder):
        try:
            unseal(objects.read(key) or b"")
        except DamagedError as error:
            yield Damage(key, str(error), key=key)


def _result_faults(objects: Objects) -> Iterator[Damage]:
    for key in objects.list(RESULTS):
        try:
            # One that was reclaimed since it was listed is no fault.
            if (content := objects.read(key)) is not None:
                check(key, content)
        except DamagedError as error:
            yield Damage(key, str(error), key=key)


def _group_faults(objects: Objects, version: Version) -> Iterator[Damage]:
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


def _non_finite_faults(objects: Objects, commits: Iterable[Commit]) -> Iterator[Damage]:
    """Yield damaged notes; with one of a row, the row, so that both are made again."""
    for damage in _sealed_faults(objects, NON_FINITE):
        yield damage
        for commit in commits:
            if damage.key == row_key(commit.group, commit.fingerprint):
                yield _of_row(commit, f"{damage.key}, of its numbers, {damage.what}")


def _lease_faults(objects: Objects) -> Iterator[Damage]:
    for key in objects.list(LEASES):
        if not read_lease(objects, key):
            yield Damage(key, "is damaged, and nobody's", key=key)


def _is_ours(key: str) -> bool:
    """Tell whether a key can be that of a store, or is of another program or of a file system."""
    return key.partition("/")[0] in _OURS and not key.rpartition("/")[2].startswith(".")


def _repair(store: Store, faults: Iterable[Damage]) -> None:
    faults = list(faults)
    bad = [fault.commit for fault in faults if fault.commit is not None]
    if bad:
        cells = {(one.group, one.variant, one.step): one for one in sorted(bad)}
        older = [
            commit
            for commit in store.commits()
            if (worst := cells.get((commit.group, commit.variant, commit.step))) is not None
            and commit <= worst
        ]
        store.drop(older)
    folders = {fault.folder for fault in faults if fault.folder is not None}
    if folders:
        withdraw(store, folders)
    store.objects.delete_all([fault.key for fault in faults if fault.key is not None])
    for fault in faults:
        if fault.made_anew:
            store.objects.put(fault.made_anew)


def _of_row(commit: Commit, what: str) -> Damage:
    return Damage(f"{commit.group} at step {commit.step} ({commit.key})", what, commit)


def _brief(error: Exception) -> str:
    return first_line(error)[:160]
