"""Read the files of a checkpoint from any storage, small ones once."""

import threading
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.files import is_hugging_face
from pipeline.checkpoints.formats import format_of
from pipeline.checkpoints.formats.base import Format
from pipeline.checkpoints.layouts import ADAPTER
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Files, Folder, Place
from pipeline.errors import ChangedError, CheckpointError, DamagedError
from pipeline.outside import largest, refuse_larger

# Threads that need the same content at once request it once. A fixed number of locks is shared by
# all identities, since one lock for each would have to be removed again.
_READING = tuple(threading.Lock() for _ in range(64))


def where(place: Place, folder: Folder, name: str) -> tuple[Place, str]:
    """Return the storage and the address of the folder that one of a checkpoint's files is in."""
    at = folder.files[name].at
    return (place_of(at), at) if at else (place, folder.uri)


def read_bytes(
    place: Place, folder: Folder, name: str, start: int = 0, stop: int | None = None
) -> bytes:
    """Return bytes `start` to `stop` of one of a checkpoint's files; see `Place.read`."""
    storage, uri = where(place, folder, name)
    return storage.read(uri, folder.files[name].name_there, start, stop)


def format_of_files(files: Files) -> Format | None:
    """Return the format of a checkpoint's files; None for that of Hugging Face, or if unknown."""
    # The weights of an adapter's base model are in the Hugging Face format, and elsewhere.
    own = [name for name, file in files.items() if not file.at] if ADAPTER in files else files
    return None if is_hugging_face(own) else format_of(files)


def read_small(place: Place, folder: Folder, name: str) -> bytes:
    """Return the content of a small file, from the cache if its identity determines it.

    Raises CheckpointError for one that is larger than such files are.
    """
    refuse_larger(f"{folder.uri}/{name}", folder.files[name].size, CheckpointError, largest(name))
    identity = folder.files[name].identity
    if identity is None:
        return read_bytes(place, folder, name)
    with _READING[hash(identity) % len(_READING)]:
        found = recall("small", identity)
        if found is None:
            try:
                found = _read_verified(place, folder, name)
            except ChangedError:  # replaced since the listing: not to be cached under the identity
                return read_bytes(place, folder, name)
            remember("small", identity, found)
    return found


def _read_verified(place: Place, folder: Folder, name: str) -> bytes:
    """Read a small file and verify it; once more if the bytes were damaged in transfer."""
    storage, uri = where(place, folder, name)
    file = replace(folder.files[name], name=folder.files[name].name_there)
    try:
        found = storage.read(uri, file.name)
        storage.verify(uri, file, found)
    except DamagedError:
        found = storage.read(uri, file.name)
        storage.verify(uri, file, found)
    return found


class StoredSource:
    """The files of a checkpoint, for the modules of `formats`; see `formats.base.Source`."""

    def __init__(self, place: Place, folder: Folder) -> None:
        self.uri, self.names = folder.uri, folder.files
        self._place, self._folder = place, folder

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        return read_small(self._place, self._folder, name)

    def described(self, name: str) -> Any:
        """Return what torch.save wrote in a file, its tensors on the meta device, without data."""
        from pipeline.checkpoints.torch_files import described, named  # needs torch

        file = self._folder.files[name]
        with named(f"{file.at or self.uri}/{name}"):
            return described(partial(read_bytes, self._place, self._folder, name), file.size)
