"""A check that a run at another address than before is the one that a store is of."""

from collections.abc import Iterable, Sequence

from pipeline.analysis.parts import DIGEST_OF
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.digests import digest_of_files
from pipeline.checkpoints.places import listed_folder, remote_place_of
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.weight_files import local_parts
from pipeline.errors import CheckpointError, InputError
from pipeline.store import Store
from pipeline.store.commits import Commit


def check_same_run(
    store: Store, address: str, checkpoints: Sequence[Checkpoint], reading: bool = True
) -> None:
    """Raise InputError where the run at a new address has other weights than the store's.

    A run may be copied, renamed or mounted elsewhere: it is known by its architecture and by the
    digests of its weights. At the address that the store knows, weights may change: they are
    computed again. Files on this machine whose digests are not known are read for it: they would be
    read by the workers otherwise, and are remembered. reading: False leaves them out. Rows with the
    digest of some weights only are not compared: the workers compare them.
    """
    if store.versions.newest_number() == 0:
        return
    snapshot = store.snapshot()
    if snapshot.version.address in ("", address):
        return
    stored = _by_step(snapshot.commits)
    common = [one for one in checkpoints if one.step in stored]
    digests = side_by_side(_digest if reading else _known_digest, common)
    for one, digest in zip(common, digests, strict=True):
        rows = stored[one.step]
        if digest is None or any(row.is_of(digest) for row in rows):
            continue
        if weights := {row.weights for row in rows if not _is_of_some_weights(store, row)}:
            raise InputError(
                f"{store.uri}: the store is of the run at {snapshot.version.address}, whose "
                f"weights at step {one.step} are {min(weights)}, and those at {address} "
                f"are {digest[:16]}: choose another store"
            )


def _by_step(commits: Iterable[Commit]) -> dict[int, list[Commit]]:
    """Return by step the rows of all weights that were ever analysed."""
    found: dict[int, list[Commit]] = {}
    for commit in commits:
        found.setdefault(commit.step, []).append(commit)
    return found


def _is_of_some_weights(store: Store, commit: Commit) -> bool:
    return DIGEST_OF.items() <= store.pack(commit).header.get("details", {}).items()


def _known_digest(checkpoint: Checkpoint) -> str | None:
    return checkpoint.digest


def _digest(checkpoint: Checkpoint) -> str | None:
    """Return the digest of a checkpoint; None where it is neither known nor on this machine."""
    if checkpoint.digest is not None:
        return checkpoint.digest
    if remote_place_of(checkpoint.uri) is not None:
        return None
    try:
        return digest_of_files(local_parts(listed_folder(checkpoint)).files)
    except (CheckpointError, OSError):
        return None  # a checkpoint that cannot be read ends for itself, later
