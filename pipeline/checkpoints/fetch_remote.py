"""A checkpoint with files that are not on this machine, downloaded at the first access."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import format_of_files, where
from pipeline.checkpoints.digests import combined, sha256_of
from pipeline.checkpoints.downloads import TRIES, check_space, fetch_verified
from pipeline.checkpoints.fetch_facts import (
    TRANSIENT,
    config_if_readable,
    gone,
    have_ranges,
    identity_of,
)
from pipeline.checkpoints.fetch_room import Room
from pipeline.checkpoints.files import inside_run
from pipeline.checkpoints.formats.base import LocalParts
from pipeline.checkpoints.places import current_folder, place_of
from pipeline.checkpoints.stored import Folder, RemotePlace, StoredFile
from pipeline.checkpoints.tensor_ranges import RangedFile
from pipeline.checkpoints.weight_files import known_digest, weight_parts
from pipeline.errors import ChangedError, CheckpointError
from pipeline.outside import reading

Content = TypeVar("Content")


class Fetched:
    """A checkpoint with files that are not on this machine, downloaded at the first access."""

    def __init__(self, checkpoint: Checkpoint, room: Room) -> None:
        self._checkpoint, self._room = checkpoint, room
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
        return config_if_readable(self._place, self.listed)

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
        with reading(self._checkpoint.uri, passing=TRANSIENT):
            return reader(parts)

    @property
    def known_digest(self) -> str | None:
        """The digest of the current files; None if they would have to be downloaded for it."""
        return known_digest(self._place, self.listed)

    def read_ranges(
        self, reader: Callable[[Sequence[RangedFile]], Content]
    ) -> tuple[Content, str | None] | None:
        """Return `reader(files)`, and the identity of the weights that it read ranges of.

        None if the files cannot be read in part. Nothing is downloaded to the disk. If the files
        are replaced meanwhile, those in their place are read.
        """
        for last in [False] * (TRIES - 1) + [True]:
            if not self.listed.files:
                raise CheckpointError(gone(self.listed.uri))
            parts = weight_parts(self._place, self.listed)
            files = [self._ranges(part) for part in parts]
            known = have_ranges([part.name for part in parts], format_of_files(self.listed.files))
            if not known or None in files:
                return None
            try:
                with reading(self._checkpoint.uri, passing=TRANSIENT):
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
            self._room.give_back(self._folder)
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
            raise CheckpointError(gone(remote.uri))
        parts = weight_parts(self._place, remote)
        size = sum(part.size for part in parts)
        self._room.refuse_larger(size, remote.uri)
        target = self._folder = self._room.folder_for(size, remote.uri)
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
