"""Provide checkpoints as folders on this machine while they are being read.

A local checkpoint is its own folder. A remote one is downloaded at the first access and removed
when it is released, so that a worker's disk use is bounded for a run of any length: a thread that
needs another checkpoint waits. While one thread computes, others download, so that the number of
threads is the number of checkpoints fetched ahead. Weights are read into memory and not mapped, so
that removing the files frees the disk, see `pipeline.models.weights.read_weights`.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.checkpoints import local
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.claimed_folders import claimed_folder
from pipeline.checkpoints.contents import (
    config_of,
    format_of_files,
    known_digest,
    local_parts,
    weight_parts,
    where,
)
from pipeline.checkpoints.digests import (
    await_next_tick,
    combined,
    digest_of_files,
    local_state,
    sha256_of,
)
from pipeline.checkpoints.downloads import TRIES, check_space, fetch_verified
from pipeline.checkpoints.files import inside_run
from pipeline.checkpoints.formats.base import Format, LocalParts
from pipeline.checkpoints.places import current_folder, place_of, remote_place_of
from pipeline.checkpoints.stored import Folder, Place, RemotePlace, StoredFile
from pipeline.checkpoints.tensor_ranges import RangedFile, local_ranges
from pipeline.errors import ChangedError, CheckpointError, InputError
from pipeline.outside import reading

Content = TypeVar("Content")
RangeReader = Callable[[Sequence[RangedFile]], Content]

_TRANSIENT = (OSError, MemoryError)  # errors after which the checkpoint is tried again
_WAITS = (0.2, 1.0, 0.0)  # seconds after each attempt to read files that are being written


class Copies:
    """The fetched checkpoints of one worker: at most `most` of them, with `most_bytes` of weights
    in total (None: no limit), at a time.

    largest: bytes of a checkpoint; a damaged one that has more is not read (None: no limit).

    They are kept in a folder of the worker's own within the cache folder (`ONTOGENY_CACHE`); the
    folder of a killed worker is removed by the next one.
    """

    def __init__(
        self, most: int = 2, most_bytes: int | None = None, largest: int | None = None
    ) -> None:
        self._most, self._most_bytes, self._largest = most, most_bytes, largest
        self._held: dict[Path, int] = {}
        self._changed = threading.Condition()
        self._own: Path | None = None

    @contextmanager
    def of(self, checkpoint: Checkpoint) -> Iterator[Copy]:
        """Yield the checkpoint's copy, which is fetched when its folder is first accessed.

        Errors about its files are raised as CheckpointError with the checkpoint's address.
        """
        copy = Fetched(checkpoint, self) if _is_remote(checkpoint) else Local(checkpoint, self)
        try:
            yield copy
        except CheckpointError as error:  # type(error), since callers handle subclasses differently
            raise type(error)(copy.restated(str(error))) from error
        except (InputError, FileNotFoundError) as error:
            raise CheckpointError(copy.restated(str(error))) from error
        finally:
            copy.release()

    def refuse_larger(self, size: int, uri: str) -> None:
        """Raise CheckpointError for a checkpoint of more bytes than its model can have."""
        if self._largest is not None and size > self._largest:
            raise CheckpointError(
                f"{uri}: its weights have {size:,} bytes, expected at most {self._largest:,} "
                "by its config.json or the run's other checkpoints: restore it"
            )

    def make_room(self, size: int, uri: str) -> Path:
        """Return a new empty folder as soon as there is room for a checkpoint of `size` bytes.

        Raises CheckpointError, naming the `uri`, for one that exceeds the limit by itself.
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
        """Remove a folder returned by `make_room`, and let a waiting thread proceed."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._changed:
            del self._held[folder]
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        room = self._most_bytes is None or sum(self._held.values()) + size <= self._most_bytes
        return room and len(self._held) < self._most

    def _folder(self) -> Path:
        if self._own is None:
            self._own = claimed_folder(cache_folder() / "copies")
        return self._own


class Local:
    """A checkpoint in a local folder."""

    def __init__(self, checkpoint: Checkpoint, copies: Copies) -> None:
        self._checkpoint, self._copies = checkpoint, copies
        self._digest: str | None = None
        self._digested: list[str] | None = None  # the state of the files that the digest is of

    @property
    def parts(self) -> LocalParts:
        """The files that hold its weights. Raises CheckpointError if one is missing."""
        return local_parts(self.listed)

    @property
    def listed(self) -> Folder:
        """The checkpoint's folder, with its files as they are now."""
        return current_folder(self._checkpoint)

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; {} if it cannot be read."""
        return _config(local, self.listed)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint with the digest of its current files, or of those that `read` has read.

        The digest of the listing is not used, since the files may have changed since. It is taken
        from the cache if the files' state is known, else the files are read.
        """
        if self._digest is None:
            self.read(lambda parts: None)
        return replace(self._checkpoint, digest=self._digest)

    def read(self, reader: Callable[[LocalParts], Content]) -> Content:
        """Return `reader(parts)`; `checkpoint` then has the digest of the files that were read.

        If the files change meanwhile, they are read again. Raises CheckpointError if they changed
        during each attempt.
        """

        def work(state: list[str] | None) -> Content:
            self._take_digest(state)
            return reader(self.parts)

        return self._unchanged(work)[0]

    @property
    def known_digest(self) -> str | None:
        """The digest of the files as they are now; None if they would have to be read for it."""
        return known_digest(local, self.listed)

    def read_ranges(self, reader: RangeReader[Content]) -> tuple[Content, str | None] | None:
        """Return `reader(files)`, and the identity of the weights that it read ranges of.

        None if the files cannot be read in part. Reads again as `read` does.
        """
        if not _have_ranges(self.parts.files, self.parts.format):
            return None

        def work(state: list[str] | None) -> Content:
            files = self.parts.files.values()
            for file in files:
                await_next_tick(file)
            return reader([local_ranges(file) for file in files])

        content, state = self._unchanged(work)
        return content, _joined(state)

    def _unchanged(
        self, work: Callable[[list[str] | None], Content]
    ) -> tuple[Content, list[str] | None]:
        """Return the result of reading the files in one state, and that state."""
        # The state is compared before and after, because the digest and the weights come from
        # separate reads of the files.
        for wait in _WAITS:
            before = self._state()
            try:
                with reading(self._checkpoint.uri, passing=_TRANSIENT):
                    content = work(before)
            except (CheckpointError, OSError):
                if self._state() == before:
                    raise
            else:
                if self._state() == before:
                    return content, before
            time.sleep(wait)
        raise CheckpointError(
            f"{self._checkpoint.uri}: its weights were changed while they were read, {len(_WAITS)} "
            "times: analyse it again when nothing writes to it"
        )

    def restated(self, message: str) -> str:
        """Return a message about its files, or another one if the folder no longer exists."""
        return message if Path(self._checkpoint.uri).exists() else _gone(self._checkpoint.uri)

    def release(self) -> None:
        """Do nothing, since the folder is the user's own."""

    def _take_digest(self, state: list[str] | None) -> None:
        """Compute the digest of the files, unless it is that of this state already."""
        if state is None or state != self._digested:
            files = self.parts.files
            size = sum(file.stat().st_size for file in files.values())
            self._copies.refuse_larger(size, self._checkpoint.uri)
            self._digest = digest_of_files(files)
            self._digested = state

    def _state(self) -> list[str] | None:
        """Return the state of all weight files; None if one is missing."""
        try:
            return [local_state(file) for file in self.parts.files.values()]
        except (CheckpointError, OSError):
            return None


class Fetched:
    """A checkpoint with files that are not on this machine, downloaded at the first access."""

    def __init__(self, checkpoint: Checkpoint, copies: Copies) -> None:
        self._checkpoint, self._copies = checkpoint, copies
        self._place = place_of(checkpoint.uri)
        self._folder: Path | None = None
        self._parts: LocalParts | None = None
        self._digest: str | None = None
        self._remote: Folder | None = None

    @property
    def parts(self) -> LocalParts:
        """The files that hold its weights, downloaded and verified at the first access.

        Raises CheckpointError if the checkpoint does not match its checksums, OSError if the
        storage cannot be reached.
        """
        if self._parts is None:
            self._fetch()
        return cast(LocalParts, self._parts)

    @property
    def listed(self) -> Folder:
        """The current folder: the run may have been listed hours ago. Requested once."""
        if self._remote is None:
            self._remote = current_folder(self._checkpoint)
        return self._remote

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; {} if it cannot be read."""
        return _config(self._place, self.listed)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint with the digest of the download, or before that, of the listing.

        It is downloaded for its digest only if the storage does not provide one.
        """
        listed = self._checkpoint.digest
        if self._digest is None and listed is None:
            listed = known_digest(self._place, self.listed)
        if self._digest is None and listed is None:
            self._fetch()
        return replace(self._checkpoint, digest=self._digest or listed)

    def read(self, reader: Callable[[LocalParts], Content]) -> Content:
        """Return `reader(parts)`."""
        parts = self.parts
        with reading(self._checkpoint.uri, passing=_TRANSIENT):
            return reader(parts)

    @property
    def known_digest(self) -> str | None:
        """The digest of the current files; None if they would have to be downloaded for it."""
        return known_digest(self._place, self.listed)

    def read_ranges(self, reader: RangeReader[Content]) -> tuple[Content, str | None] | None:
        """Return `reader(files)`, and the identity of the weights that it read ranges of.

        None if the files cannot be read in part. Nothing is downloaded to the disk. If the files
        are replaced meanwhile, those in their place are read.
        """
        for last in [False] * (TRIES - 1) + [True]:
            if not self.listed.files:
                raise CheckpointError(_gone(self.listed.uri))
            parts = weight_parts(self._place, self.listed)
            files = [self._ranges(part) for part in parts]
            known = _have_ranges([part.name for part in parts], format_of_files(self.listed.files))
            if not known or None in files:
                return None
            try:
                with reading(self._checkpoint.uri, passing=_TRANSIENT):
                    content = reader([file for file in files if file is not None])
                return content, identity_of(self.listed)
            except ChangedError:
                if last:
                    raise
                self._remote = None
        raise AssertionError("the last attempt returns or raises")

    def _ranges(self, part: StoredFile) -> RangedFile | None:
        """Return a file of the storage; None for one on this machine."""
        storage, uri = where(self._place, self.listed, part.name)
        if not isinstance(storage, RemotePlace):
            return None
        there = replace(part, name=part.name_there)
        return RangedFile(f"{uri}/{part.name}", part.size, partial(storage.read_range, uri, there))

    def restated(self, message: str) -> str:
        """Return a message with the checkpoint's address in place of the copy's path."""
        return message.replace(str(self._folder), self._checkpoint.uri)

    def release(self) -> None:
        """Remove the copy, which must no longer be read."""
        if self._folder is not None:
            self._copies.give_back(self._folder)
            self._folder = self._parts = None

    def _fetch(self) -> None:
        """Download the current files, and again if they change meanwhile."""
        for _ in range(TRIES - 1):
            try:
                self._fetch_once()
                return
            except ChangedError:
                self.release()
                self._remote = None
        self._fetch_once()

    def _fetch_once(self) -> None:
        remote = self.listed
        if not remote.files:
            raise CheckpointError(_gone(remote.uri))
        parts = weight_parts(self._place, remote)
        size = sum(part.size for part in parts)
        self._copies.refuse_larger(size, remote.uri)
        target = self._folder = self._copies.make_room(size, remote.uri)
        check_space(target, size)
        found = {part.name: self._fetched(part, target) for part in parts}
        self._digest = combined([(name, digest) for name, (_, digest) in found.items()])
        files = {name: path for name, (path, _) in found.items()}
        self._parts = LocalParts(files, format_of_files(remote.files))

    def _fetched(self, part: StoredFile, folder: Path) -> tuple[Path, str]:
        """Download one file into a folder, and return its path and its sha256.

        A file on this machine, of an adapter's base model, is read where it is.
        """
        storage, uri = where(self._place, self.listed, part.name)
        if not isinstance(storage, RemotePlace):
            path = inside_run(Path(uri), part.name_there)
            return path, str(sha256_of(path))
        target = folder / part.name
        target.parent.mkdir(exist_ok=True)
        there = replace(part, name=part.name_there)
        return target, fetch_verified(storage, uri, there, target)


Copy = Local | Fetched


def _have_ranges(names: Iterable[str], format_: Format | None) -> bool:
    """Return whether tensors can be read alone: from safetensors files in Hugging Face's format."""
    return format_ is None and all(name.endswith(".safetensors") for name in names)


def identity_of(folder: Folder) -> str | None:
    """Return what changes whenever the bytes of a checkpoint's weights may; None if unknown."""
    try:
        if remote_place_of(folder.uri) is None:
            return _joined([local_state(file) for file in local_parts(folder).files.values()])
        place = place_of(folder.uri)
        return _joined([part.identity for part in weight_parts(place, folder)])
    except (CheckpointError, OSError):
        return None


def _joined(identities: Sequence[str | None] | None) -> str | None:
    found = [one for one in identities or () if one is not None]
    return "\n".join(found) if found and len(found) == len(identities or ()) else None


def _is_remote(checkpoint: Checkpoint) -> bool:
    """Return whether any of a checkpoint's files is not on this machine."""
    places = {file.at or checkpoint.uri for file in (checkpoint.files or {}).values()}
    return any(remote_place_of(one) is not None for one in {checkpoint.uri, *places})


def _config(place: Place, folder: Folder) -> dict[str, Any]:
    with suppress(InputError):
        return config_of(place, folder)
    return {}


def _gone(uri: str) -> str:
    return f"{uri}: is gone since it was listed: restore it, or go on without it"
