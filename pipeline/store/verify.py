"""Verification: every object of a store against the checksums that it was written with."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

from pipeline.errors import InputError, first_line
from pipeline.store.commits import LARGE, PACKS
from pipeline.store.damage import Damage, of_row
from pipeline.store.inputs import INPUTS
from pipeline.store.lease import FOLDER as LEASES
from pipeline.store.lease import owned
from pipeline.store.non_finite import FOLDER as NON_FINITE
from pipeline.store.object_faults import (
    input_faults,
    lease_faults,
    non_finite_faults,
    result_faults,
    row_faults,
    sealed_faults,
)
from pipeline.store.packs import Pack, decode
from pipeline.store.results import FOLDER as RESULTS
from pipeline.store.sealed import DamagedError
from pipeline.store.store import REFERENCES, Store
from pipeline.store.trainer_log import FOLDER as TRAINER_LOG
from pipeline.store.trajectories import FOLDER as TRAJECTORIES
from pipeline.store.trajectories import withdraw
from pipeline.store.trajectory_faults import group_faults, label_checksums, trajectory_faults
from pipeline.store.versions import FOLDER as VERSIONS
from pipeline.store.versions import NO_OBJECT, key_of

SENT_RECORD = "_sent.json"  # what experiment trackers have received
_OURS = (
    VERSIONS, PACKS, LARGE, TRAJECTORIES, INPUTS, REFERENCES, LEASES,
    NON_FINITE, RESULTS, "_probe", "_announced.json", SENT_RECORD, TRAINER_LOG, "zarr.json",
)  # fmt: skip


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
            faults.append(of_row(commit, str(error)))
            continue
        faults += row_faults(store, commit, packs[commit.key])
    sums = {key: {**label_checksums(pack), **pack.checksums} for key, pack in packs.items()}
    for published in snapshot.version.published.values():
        faults += trajectory_faults(store, published, sums)
    faults += input_faults(store.objects)
    faults += sealed_faults(store.objects, REFERENCES)
    faults += result_faults(store.objects)
    faults += non_finite_faults(store.objects, snapshot.commits)
    faults += lease_faults(store.objects)
    faults += group_faults(store.objects, snapshot.version)
    foreign = tuple(key for key in store.objects.list() if not _is_ours(key))
    return Verified(len(snapshot.commits), tuple(faults), foreign=foreign)


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
