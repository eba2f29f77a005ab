"""A checkpoint in a folder of this machine, read in one state of its files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.checkpoints import local
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.digests import await_next_tick, digest_of_files, local_state
from pipeline.checkpoints.fetch_facts import (
    TRANSIENT,
    config_if_readable,
    gone,
    have_ranges,
    joined,
)
from pipeline.checkpoints.fetch_room import Room
from pipeline.checkpoints.formats.base import LocalParts
from pipeline.checkpoints.places import current_folder
from pipeline.checkpoints.stored import Folder
from pipeline.checkpoints.tensor_ranges import RangedFile, local_ranges
from pipeline.checkpoints.weight_files import known_digest, local_parts
from pipeline.errors import CheckpointError
from pipeline.outside import reading

Content = TypeVar("Content")

_WAITS = (0.2, 1.0, 0.0)  # seconds after each attempt to read files that are being written


class Local:
    """A checkpoint in a local folder."""

    def __init__(self, checkpoint: Checkpoint, room: Room) -> None:
        self._checkpoint, self._room = checkpoint, room
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
        return config_if_readable(local, self.listed)

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

    def read_ranges(
        self, reader: Callable[[Sequence[RangedFile]], Content]
    ) -> tuple[Content, str | None] | None:
        """Return `reader(files)`, and the identity of the weights that it read ranges of.

        None if the files cannot be read in part. Reads again as `read` does.
        """
        if not have_ranges(self.parts.files, self.parts.format):
            return None

        def work(state: list[str] | None) -> Content:
            files = self.parts.files.values()
            for file in files:
                await_next_tick(file)
            return reader([local_ranges(file) for file in files])

        content, state = self._unchanged(work)
        return content, joined(state)

    def _unchanged(
        self, work: Callable[[list[str] | None], Content]
    ) -> tuple[Content, list[str] | None]:
        """Return the result of reading the files in one state, and that state."""
        # The state is compared before and after, because the digest and the weights come from
        # separate reads of the files.
        for wait in _WAITS:
            before = self._state()
            try:
                with reading(self._checkpoint.uri, passing=TRANSIENT):
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
        return message if Path(self._checkpoint.uri).exists() else gone(self._checkpoint.uri)

    def release(self) -> None:
        """Do nothing, since the folder is the user's own."""

    def _take_digest(self, state: list[str] | None) -> None:
        """Compute the digest of the files, unless it is that of this state already."""
        if state is None or state != self._digested:
            files = self.parts.files
            size = sum(file.stat().st_size for file in files.values())
            self._room.refuse_larger(size, self._checkpoint.uri)
            self._digest = digest_of_files(files)
            self._digested = state

    def _state(self) -> list[str] | None:
        """Return the state of all weight files; None if one is missing."""
        try:
            return [local_state(file) for file in self.parts.files.values()]
        except (CheckpointError, OSError):
            return None
