"""What every place that keeps checkpoints can tell of them, and be asked for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pipeline.checkpoints.cache import recall, remember


@dataclass(frozen=True)
class StoredFile:
    """One file in a checkpoint's folder, as its listing tells: none of its bytes were read.

    identity: two files with the same one hold the same bytes; it comes from the content where the
    place tells (a sha256, a git object's id, an ETag), and is None where it does not. sha256: where
    the place tells it, or the file was read before. changed: seconds since the epoch, 0 if unknown.
    """

    name: str
    size: int
    identity: str | None = None
    sha256: str | None = None
    changed: float = 0.0


# The files directly in one folder, by name.
Files = Mapping[str, StoredFile]

AtomicUnit = Literal["byte", "file", "commit"]


@dataclass(frozen=True)
class Folder:
    """A folder, branch or tag that may be a checkpoint: its name, its address, its files.

    changed: when the folder itself changed, in seconds since the epoch; 0 if unknown.
    """

    name: str
    uri: str
    files: Files
    changed: float = 0.0


@dataclass(frozen=True)
class Entry:
    """What lies at a run's place under a name that is no checkpoint's.

    holds: the names of the files directly in it; None for a file, and for a branch or tag, whose
    files are not asked for.
    """

    name: str
    holds: Collection[str] | None = None
    is_ref: bool = False


@dataclass(frozen=True)
class PlaceContents:
    """All that lies at a run's place: folders with a checkpoint's name, and everything else.

    run: the run's own folder, or its address where its files are not listed with the rest.
    """

    folders: Sequence[Folder]
    run: Folder | str
    others: Sequence[Entry] = ()


@runtime_checkable
class Place(Protocol):
    """A kind of place. The modules `local`, `s3` and `hub` are one each.

    ATOMIC_UNIT: the unit that appears here whole or not at all while a run is written.
    """

    ATOMIC_UNIT: AtomicUnit

    def contents(self, uri: str) -> PlaceContents:
        """All that lies at the place of the run at `uri`. Raises InputError."""
        ...

    def now(self, uri: str) -> float:
        """The time by the clock that dates the files of the run at `uri`."""
        ...

    def files_of(self, uris: Sequence[str]) -> Sequence[Files]:
        """The files directly in each of the folders."""
        ...

    def read(self, uri: str, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a file in the folder `uri`; fewer where it ends before."""
        ...

    def verify(self, uri: str, file: StoredFile, content: bytes) -> None:
        """Check the content of a small file of the folder `uri`, where its place tells a sum of it.

        Raises ChangedError where the file was replaced since it was listed, else DamagedError.
        """
        ...

    def is_growing(self, folder: Folder) -> bool:
        """Whether a folder that lacks something is being written at this moment."""
        ...


@runtime_checkable
class RemotePlace(Place, Protocol):
    """A place whose files must come to this machine before they can be used."""

    def fetch(self, uri: str, file: StoredFile, target: Path) -> None:
        """Write one file of the folder `uri` to `target`, whole; OSError where that may pass.

        Raises ChangedError for a file that was replaced since it was listed, DamagedError for bytes
        that are not those that the place has a sum of.
        """
        ...


def known_sha256(identity: str) -> str | None:
    """The sha256 of a file of this identity, if one was read before."""
    found = recall("digests", identity)
    return None if found is None else found.decode()


def remember_sha256(identity: str, sha256: str) -> None:
    """Remember it, so that no file is read twice for it."""
    remember("digests", identity, sha256.encode())
