"""A checkpoint as a folder on this machine, for as long as it is being read.

A local checkpoint is its own folder. One from elsewhere is fetched when it is asked for and removed
when it is released, so that a worker never has more of them on its disk than it may, however long
the run: a thread that wants another one waits. While one thread computes, others fetch: the number
of threads is how far the fetching runs ahead. Weights are read into memory and never stay mapped:
what was removed takes no more disk, see `pipeline.models.loading.read_weights`.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.checkpoints import local
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import config_of, known_digest, read_small, weight_parts
from pipeline.checkpoints.digests import combined, digest_of_files, read_sha256
from pipeline.checkpoints.files import is_index, main_file, weight_files
from pipeline.checkpoints.places import folder_of, remote_place_of
from pipeline.checkpoints.stored import Folder, Place, RemotePlace, StoredFile, remember_sha256
from pipeline.errors import CheckpointError, InputError

_LOCK = "in-use"


class Copies:
    """The fetched checkpoints of one worker: at most `most` of them, and `most_bytes` of weights in
    all (None: any number), at one time.

    They are in a folder of its own within the cache folder (`ONTOGENY_CACHE`); what a killed worker
    left behind is removed by the next one.
    """

    def __init__(self, most: int = 2, most_bytes: int | None = None) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._held: dict[Path, int] = {}
        self._changed = threading.Condition()
        self._own: Path | None = None

    @contextmanager
    def of(self, checkpoint: Checkpoint) -> Iterator[Copy]:
        """The checkpoint's copy. Nothing is fetched before its folder is asked for."""
        place = remote_place_of(checkpoint.uri)
        if place is None:
            yield Local(checkpoint)
            return
        copy = Fetched(checkpoint, place, self)
        try:
            yield copy
        except CheckpointError as error:
            raise CheckpointError(copy.in_its_words(str(error))) from error
        finally:
            copy.release()

    def make_room(self, size: int, uri: str) -> Path:
        """A new empty folder, once there is room for one more checkpoint of `size` bytes.

        Raises CheckpointError, naming the `uri`, for one that there will never be room for.
        """
        if self._most_bytes is not None and size > self._most_bytes:
            raise CheckpointError(
                f"{uri}: its weights have {size} bytes, `cache.bytes` allows {self._most_bytes}: "
                "raise it, or leave it out"
            )
        with self._changed:
            folder = self._folder() / uuid.uuid4().hex
            folder.mkdir()
            self._changed.wait_for(lambda: self._has_room(size))
            self._held[folder] = size
        return folder

    def give_back(self, folder: Path) -> None:
        """Remove what `make_room` gave."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._changed:
            del self._held[folder]
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        room = self._most_bytes is None or sum(self._held.values()) + size <= self._most_bytes
        return room and len(self._held) < self._most

    def _folder(self) -> Path:
        if self._own is None:
            self._own = _claimed(cache_folder() / "copies")
        return self._own


class Local:
    """A checkpoint that is on this machine already."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def folder(self) -> Path:
        """The folder that holds its files."""
        return Path(self._checkpoint.uri)

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json; {} where it cannot be read."""
        return _config(local, folder_of(self._checkpoint.uri))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint with its digest, for which its files are read unless it is known."""
        digest = self._checkpoint.digest or digest_of_files(weight_files(self._checkpoint.uri))
        return replace(self._checkpoint, digest=digest)


class Fetched:
    """A checkpoint from elsewhere."""

    def __init__(self, checkpoint: Checkpoint, place: RemotePlace, copies: Copies) -> None:
        self._checkpoint, self._place, self._copies = checkpoint, place, copies
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds its weights, fetched and verified at the first call.

        Raises CheckpointError where the checkpoint is not what its place says it is, OSError where
        the place cannot be reached.
        """
        if self._folder is None:
            size = sum(part.size for part in self._parts)
            self._folder = self._copies.make_room(size, self._checkpoint.uri)
            self._fetch(self._folder, size)
        return self._folder

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json; {} where it cannot be read."""
        return _config(self._place, self._remote)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint with its digest; it is fetched only if its place does not tell."""
        digest = self._checkpoint.digest or known_digest(self._place, self._remote)
        if digest is None:
            folder = self.folder
            digest = combined((part.name, read_sha256(folder / part.name)) for part in self._parts)
        return replace(self._checkpoint, digest=digest)

    def in_its_words(self, message: str) -> str:
        """A message about the copy, as one about the checkpoint: only that place is known."""
        return message.replace(str(self._folder), self._checkpoint.uri)

    def release(self) -> None:
        """Remove the copy; nothing may be reading it."""
        if self._folder is not None:
            self._copies.give_back(self._folder)
            self._folder = None

    @cached_property
    def _remote(self) -> Folder:
        return folder_of(self._checkpoint.uri)

    @cached_property
    def _parts(self) -> list[StoredFile]:
        return weight_parts(self._place, self._remote)

    def _fetch(self, target: Path, size: int) -> None:
        remote = self._remote
        main = main_file(remote.uri, remote.files)
        if is_index(main):
            (target / main).write_bytes(read_small(self._place, remote, main))
        _check_space(target, size)
        for part in self._parts:
            fetch_verified(self._place, remote.uri, part, target / part.name)


Copy = Local | Fetched


def _config(place: Place, folder: Folder) -> dict[str, Any]:
    with suppress(InputError):
        return config_of(place, folder)
    return {}


def fetch_verified(place: RemotePlace, uri: str, file: StoredFile, target: Path) -> None:
    """Fetch one file of the folder `uri`, and once more if its sha256 is not what it should be.

    Raises CheckpointError if it is wrong both times.
    """
    digest = ""
    for _ in range(2):
        place.fetch(uri, file, target)
        digest = read_sha256(target)
        if file.sha256 in (None, digest):
            if file.identity is not None:
                remember_sha256(file.identity, digest)
            return
    raise CheckpointError(
        f"{uri}/{file.name}: its sha256 is {digest}, expected {file.sha256} as its place says: "
        "upload the file again"
    )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder}: {free} bytes are free, {needed} are needed for a checkpoint: free some "
            "space, or name a folder on another disk in ONTOGENY_CACHE",
        )


def _claimed(parent: Path) -> Path:
    """A new folder in `parent` that is this process's; those of ended processes are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for other in parent.iterdir():
            if other.is_dir() and _is_abandoned(other):
                shutil.rmtree(other, ignore_errors=True)
        own = parent / uuid.uuid4().hex
        own.mkdir()
        # Held until the process ends, however it ends: its open file is the claim.
        claim = os.open(own / _LOCK, os.O_CREAT | os.O_RDWR)
        fcntl.flock(claim, fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("r+") as claim:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
