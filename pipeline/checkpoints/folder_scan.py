"""The files of a local folder: sizes, times, and the digests that are known of them."""

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from pipeline.checkpoints.digests import local_state, state_of
from pipeline.checkpoints.formats import holds_weights
from pipeline.checkpoints.stored import StoredFile, known_sha256


def files_in(folder: Path) -> dict[str, StoredFile]:
    """Return the files of a checkpoint's folder by their names.

    Where none holds weights, those of the folders in it too, by their paths; {} for a folder that
    is gone or may not be read.
    """
    try:
        entries = _entries(folder)
        found = _named_files(entries, _real_path(folder))
        if holds_weights(found):
            return found
        for entry in filter(_is_visible_folder, entries):
            found |= _named_files(
                _entries(entry.path), os.path.realpath(entry.path), f"{entry.name}/"
            )
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        # One checkpoint without weights, while the others are computed.
        return {}
    return found


def _real_path(folder: Path) -> str:
    """Return a folder's path without links."""
    if folder.name in ("", "..") or folder.is_symlink():
        return os.path.realpath(folder)
    parent = folder.parent if folder.is_absolute() else folder.parent.absolute()
    return f"{_real_parent(str(parent))}/{folder.name}"


# Cached: a run has many folders. A path that has become another one since leads to no digest at
# all, as these are of an inode and its times.
@lru_cache(maxsize=8)
def _real_parent(folder: str) -> str:
    return os.path.realpath(folder)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _named_files(
    entries: Iterable[os.DirEntry[str]], real_folder: str, prefix: str = ""
) -> dict[str, StoredFile]:
    """Return the files among the entries of a folder, by their names after a prefix."""
    found = {}
    for entry in entries:
        if (file := _of_entry(entry, real_folder, prefix + entry.name)) is not None:
            found[file.name] = file
    return found


def _is_visible_folder(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def file_at(path: Path, name: str) -> StoredFile | None:
    """Return a file; None for other entries, and for one that was just renamed or removed."""
    try:
        if not path.is_file():
            return None
        status = path.stat()
        return _of_status(name, status, lambda: local_state(path))
    except OSError:
        return None


def _of_entry(entry: os.DirEntry[str], real_folder: str, name: str) -> StoredFile | None:
    """Return the file that an entry of a folder is, as `file_at` does; in less time."""
    try:
        if not entry.is_file():
            return None
        status, is_link = entry.stat(), entry.is_symlink()
    except OSError:
        return None

    def state() -> str:
        path = os.path.realpath(entry.path) if is_link else f"{real_folder}/{entry.name}"
        return state_of(path, status)

    return _of_status(name, status, state)


def _of_status(name: str, status: os.stat_result, state: Callable[[], str]) -> StoredFile:
    # Digests are of weights: a JSON file has none, and is not looked up in the cache.
    sha256 = None if name.endswith(".json") else known_sha256(state())
    return StoredFile(name, status.st_size, sha256, sha256, status.st_mtime)
