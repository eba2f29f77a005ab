"""Read what torch.save wrote in a file: all of it without the tensors' bytes, then those asked for.

A file of torch.save is a zip archive: a pickle of the saved object (`data.pkl`), and a record with
the bytes of each storage (`data/0`, `data/1`, ...). The table of contents, at the end of the file,
and the pickle are all that is read to describe it, some kilobytes of a file of any size. torch
reads them from a small archive in memory in which the records are empty, onto the meta device.
"""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from pipeline.checkpoints.archives import refuse_unsound
from pipeline.checkpoints.inert import unpickling
from pipeline.checkpoints.pickle_globals import globals_of
from pipeline.checkpoints.placeholders import BEGINNING, placeholder_of
from pipeline.checkpoints.shapes import refuse_inflated
from pipeline.checkpoints.streams import PlacedStream
from pipeline.errors import CheckpointError, first_line
from pipeline.outside import is_out_of_memory, opened

# Returns bytes `start` to `stop` of a file (None: to its end), fewer if it ends before.
Read = Callable[[int, int | None], bytes]

_BLOCK = 2**16  # bytes of one request; a table of contents and a pickle mostly fit into one or two
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a record in a zip file, before its name
_VERSION = "3"  # of torch's archives, as it has been since torch 1.6


def described(read: Read, size: int) -> Any:
    """Return the object that torch.save wrote in a file of `size` bytes, its tensors without data.

    The tensors are on the meta device; of the file, its end and its pickle are requested. No code
    of the file is run: objects of settings are replaced, see `inert`. Raises ValueError with the
    reason if the file is damaged, names other classes, or is not of torch.save since 1.6, as older
    ones can only be read as a whole; OSError of `read` passes.
    """
    return SavedFile(read, size).content


class SavedFile:
    """A file of torch.save. content: the saved object, its tensors on the meta device.

    Raises ValueError as `described` does.
    """

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size = read, size
        self._records: dict[int, zipfile.ZipInfo] = {}
        stream = cast(BinaryIO, _Ranges(read, size))
        beginning = stream.read(BEGINNING)
        if found := placeholder_of(beginning):
            raise ValueError(found)
        if not beginning.startswith(b"PK"):
            raise ValueError(_no_zip(beginning))
        stream.seek(0)
        refuse_unsound(stream, size)
        with _damage_named():
            self.content: Any = _unpickled(self._outline(stream))

    def loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of `content` with their data, by the same names; equal storages once.

        Raises ValueError if a storage has another size than its record in the file.
        """
        storages: dict[int, Tensor] = {}
        found = {name: self._with_data(name, one, storages) for name, one in tensors.items()}
        refuse_inflated(found.items(), self._size)
        return found

    def _outline(self, stream: BinaryIO) -> bytes:
        """Return the archive with all records but the pickle empty; note the records' places."""
        outline = io.BytesIO()
        with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(outline, "w") as small:
            for entry in archive.infolist():
                folder, _, name = entry.filename.partition("/")
                if name == "byteorder" and archive.read(entry) != b"little":
                    raise ValueError("was written on a machine of another byte order: save it here")
                if name == "data.pkl":
                    small.writestr(entry.filename, archive.read(entry))
                    small.writestr(f"{folder}/version", _VERSION)
                elif name.startswith("data/"):
                    start = outline.tell() + _LOCAL_HEADER.size + len(entry.filename.encode())
                    small.writestr(entry.filename, b"")
                    self._records[start] = entry
        return outline.getvalue()

    def _with_data(self, name: str, tensor: Tensor, storages: dict[int, Tensor]) -> Tensor:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(
                f"its tensor {name!r} is sparse or quantised, expected a dense one: save it densely"
            )
        storage = tensor.untyped_storage()
        # torch notes here where the record of a storage begins, in the outline.
        place: int | None = getattr(storage, "_checkpoint_offset", None)
        entry = None if place is None else self._records.get(place)
        if place is None or entry is None or entry.file_size != storage.nbytes():
            has = "none" if entry is None else f"{entry.file_size:,}"
            raise ValueError(
                f"its tensor {name!r} needs {storage.nbytes():,} bytes, and the record for it has "
                f"{has}: save or copy it again"
            )
        if place not in storages:
            storages[place] = torch.frombuffer(self._record(entry), dtype=torch.uint8) if (
                entry.file_size
            ) else torch.empty(0, dtype=torch.uint8)  # fmt: skip
        numbers = storages[place].view(tensor.dtype)
        return numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _record(self, entry: zipfile.ZipInfo) -> bytearray:
        start = entry.header_offset + _LOCAL_HEADER.size
        header = self._read(entry.header_offset, start)
        if len(header) < _LOCAL_HEADER.size or header[:2] != b"PK":
            raise ValueError(f"its record {entry.filename!r} is missing: save or copy it again")
        *_, name, extra = _LOCAL_HEADER.unpack(header)
        start += name + extra
        content = bytearray(self._read(start, start + entry.file_size))
        if len(content) < entry.file_size:
            raise ValueError(f"its record {entry.filename!r} is cut off: save or copy it again")
        return content


@contextmanager
def saved_file(path: Path) -> Iterator[SavedFile]:
    """Yield a local file of torch.save, open while its tensors are loaded.

    Raises CheckpointError with its name, also for errors of `SavedFile.loaded` in the context.
    """
    with opened(path, CheckpointError) as stream, named(str(path)):

        def read(start: int, stop: int | None) -> bytes:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)

        yield SavedFile(read, os.fstat(stream.fileno()).st_size)


@contextmanager
def named(file: str) -> Iterator[None]:
    """Raise each ValueError in the context as CheckpointError, with the file's name before it."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{file}: {first_line(error)}") from error


class _Ranges(PlacedStream):
    """A stream of a file that is read by ranges, each of them once, in blocks."""

    def __init__(self, read: Read, size: int) -> None:
        super().__init__(size)
        self._read = read
        self._blocks: dict[int, bytes] = {}

    def _read_at(self, start: int, count: int) -> bytes:
        first, last = start // _BLOCK, (start + count - 1) // _BLOCK
        self._request(first, last)
        content = b"".join(self._blocks[number] for number in range(first, last + 1))
        return content[start - first * _BLOCK : start + count - first * _BLOCK]

    def _request(self, first: int, last: int) -> None:
        """Request the blocks that are absent, neighbours at once."""
        absent = [number for number in range(first, last + 1) if number not in self._blocks]
        while absent:
            start = absent[0]
            count = next((n for n, one in enumerate(absent) if one != start + n), len(absent))
            stop = min(self._size, (start + count) * _BLOCK)
            content = self._read(start * _BLOCK, stop)
            for number in absent[:count]:
                at = (number - start) * _BLOCK
                self._blocks[number] = content[at : at + _BLOCK]
            absent = absent[count:]


def _no_zip(beginning: bytes) -> str:
    if not beginning:
        return "is empty: save or copy it again"
    if beginning[:1] == b"\x80":
        return (
            "was written by torch before 1.6, whose files cannot be described without reading all "
            "of them: load it and save it again with torch.save"
        )
    return "is no file of torch.save: save or copy it again"


def _unpickled(archive: bytes) -> Any:
    with unpickling(lambda: globals_of(io.BytesIO(archive))) as refused:
        if refused:
            raise ValueError(
                f"names {refused[0]}, and files that could run code are refused: save its weights "
                "and its settings as plain dictionaries (of whole models, their state_dict())"
            )
        return torch.load(io.BytesIO(archive), map_location="meta", weights_only=True)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Raise every error of reading a damaged archive as ValueError, and pass those of storage."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(f"its pickle is refused ({first_line(error)}): save it again") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise ValueError(f"is damaged ({first_line(error)}): copy it again") from error
        raise
    except Exception as error:  # of any type, for a damaged file
        if is_out_of_memory(error):
            raise
        raise ValueError(f"is damaged ({first_line(error)}): copy it again") from error
