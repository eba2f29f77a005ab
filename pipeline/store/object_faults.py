"""Faults of the objects that hold rows, inputs, results, notes and leases: one function a kind."""

from collections.abc import Iterable, Iterator

from pipeline.store.commits import Commit
from pipeline.store.damage import Damage, brief, of_row
from pipeline.store.inputs import INPUTS, decode_input, decode_texts
from pipeline.store.lease import FOLDER as LEASES
from pipeline.store.lease import read_lease
from pipeline.store.non_finite import FOLDER as NON_FINITE
from pipeline.store.non_finite import row_key
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, checksum
from pipeline.store.results import FOLDER as RESULTS
from pipeline.store.results import check
from pipeline.store.sealed import DamagedError, unseal
from pipeline.store.store import Store


def row_faults(store: Store, commit: Commit, pack: Pack) -> Iterator[Damage]:
    """Yield the variables of a row, in its pack or beside it, that are not what was committed."""
    row = pack.header["row"]
    if (row["step"], row["fingerprint"]) != (commit.step, commit.fingerprint):
        yield of_row(commit, "is the object of another row")
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
            yield of_row(commit, str(error))
            continue
        if found != wanted:
            yield of_row(commit, f"{name} is not what was committed")


def input_faults(objects: Objects) -> Iterator[Damage]:
    """Yield the inputs that cannot be read: each part has a checksum, which reading compares."""
    for key in objects.list(INPUTS):
        try:
            content = objects.read(key) or b""
            decode_input(content)
            decode_texts(content)
        except Exception as error:
            yield Damage(key, f"cannot be read ({brief(error)})", key=key)


def sealed_faults(objects: Objects, folder: str) -> Iterator[Damage]:
    """Yield the objects of a folder of sealed JSON that do not match their checksum."""
    for key in objects.list(folder):
        try:
            unseal(objects.read(key) or b"")
        except DamagedError as error:
            yield Damage(key, str(error), key=key)


def result_faults(objects: Objects) -> Iterator[Damage]:
    """Yield the results over checkpoints that do not match their checksum."""
    for key in objects.list(RESULTS):
        try:
            # One that was reclaimed since it was listed is no fault.
            if (content := objects.read(key)) is not None:
                check(key, content)
        except DamagedError as error:
            yield Damage(key, str(error), key=key)


def non_finite_faults(objects: Objects, commits: Iterable[Commit]) -> Iterator[Damage]:
    """Yield damaged notes; with one of a row, the row, so that both are made again."""
    for damage in sealed_faults(objects, NON_FINITE):
        yield damage
        for commit in commits:
            if damage.key == row_key(commit.group, commit.fingerprint):
                yield of_row(commit, f"{damage.key}, of its numbers, {damage.what}")


def lease_faults(objects: Objects) -> Iterator[Damage]:
    """Yield the leases that cannot be read."""
    for key in objects.list(LEASES):
        if not read_lease(objects, key):
            yield Damage(key, "is damaged, and nobody's", key=key)
