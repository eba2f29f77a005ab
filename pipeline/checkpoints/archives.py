"""Check the files of torch.save before they are read: their structure, without their tensors.

A file of torch.save is a zip archive of `<name>/data.pkl` and `<name>/data/0`, `data/1`, ..., none
of them compressed; before torch 1.6 it was a bare pickle, followed by its tensors. torch refuses
pickles that would run code, but neither compressed entries that are a thousand times as large as
the file, nor pickles that build millions of objects.
"""

import errno
import os
import pickletools
import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any, BinaryIO

from pipeline.errors import first_line

# The table of contents and the pickle of a checkpoint with 10,000 tensors have about 1 MB each.
_MOST_CONTENTS = 16 * 2**20
_MOST_PICKLE = 64 * 2**20
_SCANNED_FROM = 2**20  # bytes: fewer operations need neither much time nor much memory
_MOST_OPERATIONS = 1_000_000

_END = struct.Struct("<4s4H2LH")  # end of central directory record
_END_MARK = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")  # of zip64's record
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LONGEST_TAIL = _END.size + 2**16  # the record, and the longest comment after it
_SATURATED = 0xFFFFFFFF  # a field whose value is in zip64's record

# Of the globals that torch allows, the one that fills memory of any size from a few bytes.
_INFLATING = "bytearray"


def refuse_unsound(stream: BinaryIO, size: int) -> None:
    """Raise ValueError with the reason if a file that torch.save may have written is not sound.

    Reads the table of contents and the pickle; a file of another format is left to torch. Errors of
    the storage (OSError) pass.
    """
    if stream.read(2) == b"PK":
        _check_archive(stream, size)
    else:
        stream.seek(0)
        _check_bare_pickles(stream)
    stream.seek(0)


def mentions(stream: BinaryIO, name: bytes) -> bool:
    """Return whether the pickle of a file of torch.save holds a text; False if it is not sound.

    Errors of the storage (OSError) pass.
    """
    try:
        if stream.read(2) != b"PK":
            stream.seek(0)
            return name in stream.read(_SCANNED_FROM)
        # First, since zipfile takes an error of reading the end for the end of another format.
        _check_contents_size(stream, stream.seek(0, os.SEEK_END))
        with zipfile.ZipFile(stream) as archive:
            pickles = [one for one in archive.infolist() if one.filename.endswith("data.pkl")]
            small = [one for one in pickles if one.file_size <= _MOST_PICKLE]
            return any(name in archive.read(one) for one in small)
    except OSError as error:
        if _is_of_storage(error):
            raise
        return False
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError,
            struct.error, zlib.error):  # fmt: skip
        return False


def _is_of_storage(error: OSError) -> bool:
    """Return whether an error is of the storage, and so says nothing about the file.

    zipfile's own have no number, and seeking before the start, to a wrong offset, has EINVAL.
    """
    return error.errno not in (None, errno.EINVAL)


def _check_archive(stream: BinaryIO, size: int) -> None:
    _check_contents_size(stream, size)
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            _check_entries(entries, size)
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    _check_pickle(archive.read(entry))
    except OSError as error:
        if _is_of_storage(error):
            raise
        raise ValueError(first_line(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error) as error:
        raise ValueError(first_line(error)) from error


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    if any(one.filename.endswith("/constants.pkl") for one in entries):
        raise ValueError("it is a program of TorchScript: save the model's state_dict()")
    if packed := next((one for one in entries if one.compress_type != zipfile.ZIP_STORED), None):
        raise ValueError(
            f"its entry {packed.filename!r} is compressed ({packed.file_size:,} bytes when read), "
            "which torch.save never does"
        )
    if wrong := next((one for one in entries if one.file_size != one.compress_size), None):
        raise ValueError(f"its entry {wrong.filename!r} has two sizes")
    # Entries that overlap could name the same bytes any number of times.
    if (total := sum(one.file_size for one in entries)) > size:
        raise ValueError(f"its entries have {total:,} bytes, and the whole file {size:,}")
    pickles = [one for one in entries if one.filename.endswith("data.pkl")]
    if large := next((one for one in pickles if one.file_size > _MOST_PICKLE), None):
        raise ValueError(f"its pickle has {large.file_size:,} bytes, at most {_MOST_PICKLE:,}")


def _check_contents_size(stream: BinaryIO, size: int) -> None:
    """Raise ValueError if the table of contents is larger than any checkpoint's."""
    start = max(0, size - _LONGEST_TAIL)
    stream.seek(start)
    tail = stream.read(_LONGEST_TAIL)
    at = tail.rfind(_END_MARK)
    if at < 0 or len(tail) - at < _END.size:
        raise ValueError("its end is missing")
    contents = _END.unpack_from(tail, at)[5]
    if contents == _SATURATED:
        contents = _contents_size_64(stream, start + at)
    if contents > min(_MOST_CONTENTS, size):
        raise ValueError(f"its table of contents has {contents:,} bytes")
    stream.seek(0)


def _contents_size_64(stream: BinaryIO, end: int) -> int:
    stream.seek(max(0, end - _LOCATOR.size))
    locator = stream.read(_LOCATOR.size)
    if len(locator) < _LOCATOR.size or locator[:4] != b"PK\x06\x07":
        raise ValueError("its table of contents has no size")
    stream.seek(min(_LOCATOR.unpack(locator)[2], end))
    record = stream.read(_END_64.size)
    if len(record) < _END_64.size or record[:4] != b"PK\x06\x06":
        raise ValueError("its table of contents has no size")
    return _END_64.unpack(record)[8]


def _check_pickle(content: bytes) -> None:
    """Raise ValueError for a pickle that builds more objects than any checkpoint has."""
    if _INFLATING.encode() in content or len(content) >= _SCANNED_FROM:
        _check_operations(BytesIO(content))


class _Bounded:
    """A stream of which no single read is longer than a pickle may be."""

    def __init__(self, stream: BinaryIO | BytesIO) -> None:
        self._stream, self.tell = stream, stream.tell

    def read(self, count: int) -> bytes:
        if count > _MOST_PICKLE:
            raise ValueError(f"its pickle holds a text of {count:,} bytes")
        return self._stream.read(count)

    def readline(self) -> bytes:
        return self._stream.readline(_MOST_PICKLE)


def _check_bare_pickles(stream: BinaryIO) -> None:
    """Check the pickles of a file of torch before 1.6: magic number, version, system, content."""
    for _ in range(4):
        _check_operations(stream)


def _check_operations(stream: BinaryIO | BytesIO) -> None:
    """Raise ValueError for too many operations, or for a global that makes objects of any size."""
    pickle: Any = _Bounded(stream)  # a stream as far as `genops` reads it
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
            if number > _MOST_OPERATIONS:
                raise ValueError(f"its pickle has more than {_MOST_OPERATIONS:,} operations")
            if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                _check_global(argument)
    except (UnicodeError, IndexError, AssertionError, struct.error, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({first_line(error)})") from error


def _check_global(argument: Any) -> None:
    name = str(argument or "").rpartition(" ")[2]
    if name == _INFLATING:
        raise ValueError(f"its pickle names {name}, which no state dict does")
