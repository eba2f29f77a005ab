"""A check that a run at another address than before is the one that a store is of."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.contents import local_parts
from pipeline.checkpoints.digests import digest_of_files
from pipeline.checkpoints.listing import SIDE_BY_SIDE
from pipeline.checkpoints.places import listed_folder, remote_place_of
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
    read by the workers otherwise, and are remembered. reading: False leaves them out.
    """
    if store.versions.newest_number() == 0:
        return
    snapshot = store.snapshot()
    if snapshot.version.address in ("", address):
        return
    stored = _weights(snapshot.commits)
    common = [one for one in checkpoints if one.step in stored]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        digests = threads.map(_digest if reading else _known_digest, common)
    for one, digest in zip(common, digests, strict=True):
        if digest and not any(digest.startswith(weights) for weights in stored[one.step]):
            raise InputError(
                f"{store.uri}: the store is of the run at {snapshot.version.address}, whose "
                f"weights at step {one.step} are {min(stored[one.step])}, and those at {address} "
                f"are {digest[:16]}: choose another store"
            )


def _weights(commits: Iterable[Commit]) -> dict[int, set[str]]:
    """Return by step the beginnings of the digests of all weights that were ever analysed."""
    found: dict[int, set[str]] = {}
    for commit in commits:
        found.setdefault(commit.step, set()).add(commit.weights)
    return found


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
