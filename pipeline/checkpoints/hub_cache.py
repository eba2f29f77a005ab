"""Read repositories from the local cache of huggingface_hub, as another source than its requests.

`hugging_face_cache.py` has the layout of a repository's folder there.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from pipeline.checkpoints.hub_address import GIT_ID, Address
from pipeline.checkpoints.hub_rows import Ref, Row
from pipeline.checkpoints.hugging_face_cache import (
    commit_in,
    ref_file,
    ref_files,
    snapshot_of,
    snapshots_in,
)
from pipeline.errors import CheckpointError, InputError
from pipeline.outside import opened

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_COMMIT = "0" * 40  # git's own, where it names no object
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")


def is_offline() -> bool:
    """Return whether `HF_HUB_OFFLINE` forbids requests to the Hub."""
    return constants.is_offline_mode()


def folder_of(address: Address) -> Path:
    """Return the folder of a repository in the cache, which may not exist."""
    name = repo_folder_name(repo_id=address.repo, repo_type=address.kind)
    return Path(constants.HF_HUB_CACHE) / name


def holds(address: Address) -> bool:
    """Return whether the cache holds the repository, or the commit if the address has one."""
    if address.is_commit:
        return _snapshot(address).is_dir()
    return snapshots_in(folder_of(address)).is_dir()


def refs(address: Address) -> list[Ref]:
    """Return the branches and tags of which something was downloaded. Raises InputError for none.

    The cache does not tell branches from tags.
    """
    place = folder_of(address)
    if not holds(address):
        raise InputError(
            f"{address}: is not in the local cache ({place}), and HF_HUB_OFFLINE is set: unset it, "
            f"or download the repository where the Hub can be reached (hf download {address.repo})"
        )
    found = [Ref(name, _commit_in(file), is_branch=True) for name, file in ref_files(place).items()]
    return [ref for ref in found if snapshot_of(place, ref.commit).is_dir()]


def tree(commit: Address, folder: str, recursive: bool) -> list[Row]:
    """Return the files and folders in a folder of a commit, as far as they were downloaded.

    Of the main branch, which an address without a commit means, that may be nothing. Raises
    CheckpointError if nothing of a commit was.
    """
    place = _snapshot(commit)
    if not place.is_dir():
        if commit.ref is None:
            return []
        raise CheckpointError(f"{commit}: {_not_here(place)}")
    start = place / folder
    if not start.is_dir():
        raise CheckpointError(f"{commit}/{folder}: {_not_here(start)}")
    return list(_rows(place, start, recursive))


def path_of(commit: Address, path: str) -> Path:
    """Return a file of a commit. Raises CheckpointError if it was not downloaded."""
    file = _snapshot(commit) / path
    # A link may lead to the repository's blobs, and nowhere else.
    inside = os.path.realpath(file).startswith(os.path.realpath(folder_of(commit)) + os.sep)
    if not (inside and file.is_file()):
        raise CheckpointError(f"{commit}/{path}: {_not_here(file)}")
    return file


def read_part(commit: Address, path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes `start` to `stop` of a file of a commit; fewer if it ends before."""
    with opened(path_of(commit, path), CheckpointError) as stream:
        stream.seek(start)
        return stream.read() if stop is None else stream.read(max(0, stop - start))


def fetch_file(commit: Address, path: str, size: int, target: Path) -> None:
    """Copy one file of a commit to `target`. Raises CheckpointError if its size is another."""
    file = path_of(commit, path)
    if (found := file.stat().st_size) != size:
        raise CheckpointError(
            f"{commit}/{path}: has {found} bytes in the local cache, expected {size}: download it "
            "again"
        )
    shutil.copyfile(file, target)


def may_be_weights(name: str) -> bool:
    """Return whether a file of this name may hold weights."""
    return name.endswith(_WEIGHTS) and not name.endswith("training_args.bin")


def _rows(place: Path, folder: Path, recursive: bool) -> Iterator[Row]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(place).as_posix()
        if path.is_file():
            # A cache on a file system without links has the file itself here, which is not
            # identified by its name.
            target = Path(os.path.realpath(path)).name if path.is_symlink() else ""
            blob = target if GIT_ID.fullmatch(target) else None
            sha256 = target if _SHA256.fullmatch(target) else None
            yield Row(name, path.stat().st_size, blob, sha256)
        elif path.is_dir() and not path.is_symlink():
            yield Row(name)
            if recursive:
                yield from _rows(place, path, recursive)


def _snapshot(commit: Address) -> Path:
    place = folder_of(commit)
    return snapshot_of(place, commit.ref or _commit_in(ref_file(place, "main")))


def _commit_in(file: Path) -> str:
    """Return the commit that a ref's file names; one that does not exist if there is none."""
    with suppress(InputError):
        return commit_in(file)
    return _NO_COMMIT


def _not_here(path: Path) -> str:
    return (
        f"is not in the local cache ({path}), and nothing else is read without a connection to the "
        "Hub: download it first"
    )
