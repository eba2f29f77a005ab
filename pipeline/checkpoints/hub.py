"""Read checkpoints from the Hugging Face Hub; `hub_contents.py` lists those of a run."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoints import hub_contents, hub_source, hub_states
from pipeline.checkpoints.hub_address import Address, parse_address
from pipeline.checkpoints.hub_contents import files_at, of_run
from pipeline.checkpoints.side_by_side import side_by_side
from pipeline.checkpoints.stored import AtomicUnit, Files, Folder, PlaceContents, StoredFile
from pipeline.config import RunLayout
from pipeline.errors import DamagedError

ATOMIC_UNIT: AtomicUnit = "commit"
_GIT = "git "  # prefix of the identity of a file that is a git object


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """List the checkpoints of a repository, with the files of each; see `hub_contents.py`."""
    return hub_contents.contents(uri, layout)


def now(uri: str) -> float:
    """Return this machine's time, which nothing depends on: commits are never unfinished."""
    return time.time()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each checkpoint, each of which is listed once."""
    different = list(dict.fromkeys(uris))
    found = dict(zip(different, side_by_side(files_at, different), strict=True))
    return [found[uri] for uri in uris]


def file_in(uri: str, name: str) -> StoredFile | None:
    """Return one file of a checkpoint; None if it is absent."""
    return files_of([uri])[0].get(name)


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a checkpoint's file; fewer if it ends before."""
    address = parse_address(uri)
    if address.is_state_dict and name == "config.json":
        return hub_states.config(address)[start:stop]
    return hub_source.read_part(*_where(address, name), start, stop)


def read_range(uri: str, file: StoredFile, start: int, stop: int) -> bytes:
    """Return bytes `start` to `stop` of a file; see `stored.RemotePlace`. Commits never change."""
    found = read(uri, file.name, start, stop)
    if len(found) != stop - start:
        raise OSError(
            f"{uri}/{file.name}: received {len(found)} bytes, expected {stop - start}: try again "
            "later"
        )
    return found


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Raise DamagedError if a content does not match the file's git object or sha256."""
    _compare(f"{uri}/{file.name}", file, len(content), lambda digest: digest.update(content))


def is_growing(folder: Folder) -> bool:
    """Return False: a commit appears as a whole."""
    return False


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Download one file of a checkpoint to `target`, and verify it if it is a git object.

    The sha256 of a large file is verified by `downloads.fetch_verified`, which computes it anyway.
    """
    hub_source.fetch_file(*_where(parse_address(uri), file.name), file.size, target)
    if file.identity is not None and file.identity.startswith(_GIT):
        _compare(f"{uri}/{file.name}", file, file.size, lambda digest: _update(digest, target))


def _compare(
    place: str, file: StoredFile, size: int, update: Callable[["hashlib._Hash"], None]
) -> None:
    identity = file.identity or ""
    if identity.startswith(_GIT):
        # git's id of a blob: the SHA-1 of this header and the content
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    elif identity == file.sha256:
        digest = hashlib.sha256()
    else:
        return  # the config that hub_states makes from another one
    update(digest)
    if digest.hexdigest() != identity.removeprefix(_GIT):
        raise DamagedError(
            f"{place}: its {digest.name} is {digest.hexdigest()}, expected "
            f"{identity.removeprefix(_GIT)} as listed by the Hub: try again later"
        )


def _update(digest: "hashlib._Hash", file: Path) -> None:
    with file.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)


def _where(address: Address, name: str) -> tuple[Address, str]:
    """Return the commit of a checkpoint's file and the path in it."""
    of = of_run(address)
    path = of.path if of.is_state_dict else of.below(name)
    return replace(of, path=None), str(path)
