"""The interface of storage (`Place`), and the listings that it returns."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pipeline.checkpoints.cache import recall, remember
from pipeline.config import RunLayout

_SHA256 = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """A file in a checkpoint's folder, as it was listed, without reading its bytes.

    identity: equal for files with the same bytes: a sha256, a git object's id or an ETag, or None
    if the storage provides none. sha256: None unless the storage provides it or the file was read
    before. changed: seconds since the epoch, 0 if unknown. at: the address of the folder that the
    file is in, where that is not the checkpoint's own; "" for its own. real_name: its name there,
    where that is another one.
    """

    name: str
    size: int
    identity: str | None = None
    sha256: str | None = None
    changed: float = 0.0
    at: str = ""
    real_name: str = ""

    @property
    def name_there(self) -> str:
        """Its name in the folder that it is in."""
        return self.real_name or self.name


# The files of one folder, by name. If none directly in it holds weights, those one level down are
# included, as "folder/name".
Files = Mapping[str, StoredFile]

# The smallest unit that is written atomically.
AtomicUnit = Literal["byte", "file", "commit"]


@dataclass(frozen=True)
class Folder:
    """A folder, branch or tag that may be a checkpoint: its name, address and files.

    changed: time of the folder's own last change, in seconds since the epoch; 0 if unknown.
    """

    name: str
    uri: str
    files: Files
    changed: float = 0.0


@dataclass(frozen=True)
class Entry:
    """An entry of a run's folder or repository that is no checkpoint.

    holds: the names of what is directly in it; None for a file, and for a branch or tag, whose
    files are not listed. kind, reason: how and why it is left out, where the storage knows it; see
    `left_out.LeftOut`.
    """

    name: str
    holds: Collection[str] | None = None
    is_ref: bool = False
    kind: str = ""
    reason: str = ""


@dataclass(frozen=True)
class PlaceContents:
    """The contents of a run's address: folders with a checkpoint's name, and all other entries.

    run: the run's own folder, or its address if its files were not listed with the others. notes:
    sentences on what was assumed.
    """

    folders: Sequence[Folder]
    run: Folder | str
    others: Sequence[Entry] = ()
    notes: Sequence[str] = ()


@runtime_checkable
class Place(Protocol):
    """A kind of storage, implemented by each of the modules `local`, `s3` and `hub`.

    ATOMIC_UNIT: the unit that is written atomically while a run is in progress.
    """

    ATOMIC_UNIT: AtomicUnit

    def contents(self, uri: str, layout: RunLayout) -> PlaceContents:
        """Return the contents of the run at `uri`. Raises InputError if it is absent."""
        ...

    def now(self, uri: str) -> float:
        """Return the time of the clock that dates the files of the run at `uri`."""
        ...

    def files_of(self, uris: Sequence[str]) -> Sequence[Files]:
        """Return the files of each of the folders, see `Files`."""
        ...

    def file_in(self, uri: str, name: str) -> StoredFile | None:
        """Return one file of a folder, without listing the others; None if it is absent."""
        ...

    def read(self, uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes `start` to `stop` of a file in the folder `uri`; fewer if it ends before."""
        ...

    def verify(self, uri: str, file: StoredFile, content: bytes) -> None:
        """Verify the content of a small file of the folder `uri`, if the storage has a checksum.

        Raises ChangedError if the file was replaced since it was listed, DamagedError if the
        checksum does not match.
        """
        ...

    def is_growing(self, folder: Folder) -> bool:
        """Return whether an incomplete folder is being written at this moment."""
        ...


@runtime_checkable
class RemotePlace(Place, Protocol):
    """A kind of storage whose files must be downloaded before they can be used."""

    def fetch(self, uri: str, file: StoredFile, target: Path) -> None:
        """Download one file of the folder `uri` to `target`.

        Raises ChangedError if the file was replaced since it was listed, DamagedError if its
        checksum does not match, and OSError for errors that may be transient.
        """
        ...

    def read_range(self, uri: str, file: StoredFile, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of one file of the folder `uri`.

        They are of the file as it was listed. No storage has a checksum of a part of a file: only
        their number is checked. Raises ChangedError if the file was replaced since it was listed,
        and OSError for errors that may be transient.
        """
        ...


def known_sha256(identity: str) -> str | None:
    """Return the sha256 of a file of this identity from the cache; None if it is not there."""
    found = recall("digests", identity)
    # An entry that was damaged on disk is none.
    return None if found is None or not _SHA256.fullmatch(found) else found.decode()


def remember_sha256(identity: str, sha256: str) -> None:
    """Cache the sha256 of a file of this identity."""
    remember("digests", identity, sha256.encode())
