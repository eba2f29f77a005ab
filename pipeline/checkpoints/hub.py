"""Read runs from the Hugging Face Hub: a repository with a branch or tag per checkpoint.

`hf://owner/name` stands for all branches and tags with a checkpoint's name,
`hf://owner/name@stage1-*` for those that match the pattern. The address of a checkpoint,
`hf://owner/name@<commit>`, always refers to the same bytes. A repository without such refs may have
all checkpoints on its main branch, see `hub_states.py`.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.checkpoints import hub_states
from pipeline.checkpoints.hub_api import (
    Address,
    fetch_file,
    files_in,
    parse_address,
    read_part,
    refs,
)
from pipeline.checkpoints.listing import SIDE_BY_SIDE
from pipeline.checkpoints.names import parse_name
from pipeline.checkpoints.stored import AtomicUnit, Entry, Files, Folder, PlaceContents, StoredFile
from pipeline.config import RunLayout
from pipeline.errors import DamagedError, InputError

ATOMIC_UNIT: AtomicUnit = "commit"
_GIT = "git "  # prefix of the identity of a file that is a git object


def contents(uri: str, layout: RunLayout) -> PlaceContents:
    """List branches and tags, with the files of those that have a checkpoint's name.

    Takes one request for all refs and one per checkpoint; refs of other names are not opened.
    """
    address = parse_address(uri)
    found = refs(address)
    wanted = [
        ref for ref in (*found.tags, *found.branches) if fnmatchcase(ref.name, address.ref or "*")
    ]
    commits = {ref.name: ref.target_commit for ref in wanted if parse_name(ref.name, layout) is not None}
    others = [Entry(ref.name, is_ref=True) for ref in wanted if ref.name not in {*commits, "main"}]
    main = next((ref.target_commit for ref in found.branches if ref.name == "main"), None)
    run = str(Address(address.repo, main))
    if not commits and main and address.ref is None:
        return PlaceContents(hub_states.folders(Address(address.repo, main)), run, others)
    _refuse_several_stages(uri, list(commits))
    places = [f"hf://{address.repo}@{commit}" for commit in commits.values()]
    folders = [
        Folder(name, place, files)
        for name, place, files in zip(commits, places, files_of(places), strict=True)
    ]
    return PlaceContents(folders, run, others)


def now(uri: str) -> float:
    """Return this machine's time, which nothing depends on: commits are never unfinished."""
    return time.time()


def files_of(uris: Sequence[str]) -> list[Files]:
    """Return the files of each checkpoint."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        return list(threads.map(_files, uris))


def _files(uri: str) -> Files:
    address = parse_address(uri)
    return hub_states.files(address) if address.path else files_in(address)


def read(uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a checkpoint's file; fewer if it ends before."""
    address = parse_address(uri)
    if address.path and name == "config.json":
        return hub_states.config(address)[start:stop]
    return read_part(*_where(address, name), start, stop)


def verify(uri: str, file: StoredFile, content: bytes) -> None:
    """Raise DamagedError if a content does not match the file's git object or sha256."""
    _compare(f"{uri}/{file.name}", file, len(content), lambda digest: digest.update(content))


def is_growing(folder: Folder) -> bool:
    """Return False: a commit appears as a whole."""
    return False


def fetch(uri: str, file: StoredFile, target: Path) -> None:
    """Download one file of a checkpoint to `target`, and verify it if it is a git object.

    The sha256 of a large file is verified by `fetch.fetch_verified`, which computes it anyway.
    """
    fetch_file(*_where(parse_address(uri), file.name), file.size, target)
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
    return Address(address.repo, address.ref), address.path or name


def _refuse_several_stages(uri: str, names: list[str]) -> None:
    stages = sorted({parsed.stage for name in names if (parsed := parse_name(name))})
    if len(stages) > 1:
        raise InputError(
            f"{uri}: holds checkpoints of {len(stages)} stages ({', '.join(stages)}), each of "
            f"which counts its own steps: choose one, such as {uri}@{stages[-1]}-*"
        )
