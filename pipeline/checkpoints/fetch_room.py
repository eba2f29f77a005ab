"""The room on this machine's disk for the checkpoints that one worker has fetched."""

import shutil
import threading
import uuid
from pathlib import Path

from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.claimed_folders import claimed_folder
from pipeline.errors import CheckpointError


class Room:
    """Folders for at most `most` checkpoints, with `most_bytes` of weights in total (None: no
    limit), at a time.

    largest: bytes of a checkpoint; a damaged one that has more is not read (None: no limit).

    They are kept in a folder of the worker's own within the cache folder (`ONTOGENY_CACHE`); the
    folder of a killed worker is removed by the next one.
    """

    def __init__(self, most: int, most_bytes: int | None, largest: int | None) -> None:
        self._most, self._most_bytes, self._largest = most, most_bytes, largest
        self._held: dict[Path, int] = {}
        self._changed = threading.Condition()
        self._own: Path | None = None

    def refuse_larger(self, size: int, uri: str) -> None:
        """Raise CheckpointError for a checkpoint of more bytes than its model can have."""
        if self._largest is not None and size > self._largest:
            raise CheckpointError(
                f"{uri}: its weights have {size:,} bytes, expected at most {self._largest:,} "
                "by its config.json or the run's other checkpoints: restore it"
            )

    def folder_for(self, size: int, uri: str) -> Path:
        """Return a new empty folder as soon as there is room for a checkpoint of `size` bytes.

        Raises CheckpointError, naming the `uri`, for one that exceeds the limit by itself.
        """
        if self._most_bytes is not None and size > self._most_bytes:
            raise CheckpointError(
                f"{uri}: its weights have {size} bytes, `cache.bytes` allows {self._most_bytes}: "
                "raise it, or leave it out"
            )
        with self._changed:
            folder = self._own_folder() / uuid.uuid4().hex
            folder.mkdir()
            self._changed.wait_for(lambda: self._has_room(size))
            self._held[folder] = size
        return folder

    def give_back(self, folder: Path) -> None:
        """Remove a folder returned by `folder_for`, and let a waiting thread proceed."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._changed:
            del self._held[folder]
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        room = self._most_bytes is None or sum(self._held.values()) + size <= self._most_bytes
        return room and len(self._held) < self._most

    def _own_folder(self) -> Path:
        if self._own is None:
            self._own = claimed_folder(cache_folder() / "copies")
        return self._own
