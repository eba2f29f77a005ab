"""Token ids prepared elsewhere: arrays of numpy, and flat files of numbers of one dtype.

Only the wanted part of a file is read, and it is not mapped: a file that shrinks while it is mapped
would kill the process.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Integer
from numpy.lib import format as npy

from pipeline.errors import InputError
from pipeline.outside import opened, reading

_LONGEST_HEADER = 10_000  # bytes, numpy's own limit

TokenIds = Integer[np.ndarray, "..."]


@dataclass(frozen=True)
class Layout:
    """The ids in a file: shape, dtype, offset of the first, and whether columns come first."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0
    in_columns: bool = False


def layout_of(path: Path, dtype: str) -> Layout:
    """Return the layout of a `.npy` file, or of a flat file of `dtype`.

    Raises InputError for an array that holds no 1-d or 2-d integers, a pickle, and a file that is
    not as long as its header says.
    """
    advice = "restore it, or save it again with numpy.save"
    with (
        opened(path, InputError) as stream,
        reading(str(path), InputError, passing=(), remedy=advice),
    ):
        size = os.fstat(stream.fileno()).st_size
        if path.suffix != ".npy":
            return Layout((_count(path, size, np.dtype(dtype)),), np.dtype(dtype))
        found = _header(stream)
        if found.dtype.kind not in "iu" or len(found.shape) not in (1, 2):
            raise InputError(
                f"{path}: holds {len(found.shape)}-d {found.dtype}, expected 1-d or 2-d integer "
                "token ids"
            )
        expected = found.offset + math.prod(found.shape) * found.dtype.itemsize
        if min(found.shape) < 0 or size != expected:
            raise InputError(
                f"{path}: has {size:,} bytes, expected {expected:,} for {found.dtype} of shape "
                f"{list(found.shape)}: restore it"
            )
        return found


def first_ids(path: Path, found: Layout, *wanted: int) -> TokenIds:
    """Return the first ids along each axis of a file, at most as many as it has.

    Raises InputError for a file that is shorter by now, or ids that int64 cannot hold.
    """
    counts = [min(have, want) for have, want in zip(found.shape, wanted, strict=True)]
    each = found.dtype.itemsize
    lines, numbers = (1, counts[0]) if len(counts) == 1 else counts
    stride = found.shape[-1]
    if found.in_columns and len(counts) == 2:
        lines, numbers, stride = numbers, lines, found.shape[0]
    parts = []
    with opened(path, InputError) as stream:
        for line in range(lines):
            stream.seek(found.offset + line * stride * each)
            part = np.frombuffer(_exactly(stream, numbers * each, path), found.dtype)
            parts.append(_as_int64(part, path))
    ids = np.stack(parts) if parts else np.zeros((0, numbers), np.int64)
    if len(counts) == 1:
        return ids[0]
    return np.ascontiguousarray(ids.T) if found.in_columns else ids


def _count(path: Path, size: int, dtype: np.dtype) -> int:
    if size % dtype.itemsize:
        raise InputError(
            f"{path}: has {size:,} bytes, which is no multiple of the {dtype.itemsize} of {dtype}: "
            "correct `dtype` of the input, or restore the file"
        )
    return size // dtype.itemsize


def _header(stream: BinaryIO) -> Layout:
    """Return the layout that a header describes. Raises ValueError for one of another format."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"the format's version is {version}, expected (1, 0) or (2, 0)")
    shape, in_columns, dtype = readers[version](stream, max_header_size=_LONGEST_HEADER)
    return Layout(shape, dtype, stream.tell(), in_columns)


def _exactly(stream: BinaryIO, count: int, path: Path) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise InputError(f"{path}: was cut off while it was read: wait until it is written")
    return content


def _as_int64(ids: TokenIds, path: Path) -> TokenIds:
    """Return ids as int64. Raises InputError for one that would wrap around."""
    if ids.dtype.kind == "u" and ids.max(initial=0) > np.iinfo(np.int64).max:
        raise InputError(f"{path}: holds the token id {ids.max()}, which no model has")
    return ids.astype(np.int64)
