"""Stored arrays as xarray reads them, lazily.

Reading damaged data raises an error and never returns a number: chunks hold checksums, and an
absent chunk, which Zarr would read as NaN, is refused, because every committed row has all of its
chunks.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import StorePath, WrapperStore

from pipeline.errors import InputError
from pipeline.store.objects import Objects, access

# Zarr's default encoding of the key of a chunk: <array>/c/<index>/<index>/...
_CHUNK = re.compile(r".+/c(/\d+)+")
_REQUEST = 2**16  # cost of one request, as the count of numbers read in the same time


class Complete(WrapperStore[ZarrStore]):
    """A Zarr store that raises InputError for an absent chunk."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the object's content. Raises InputError for an absent chunk."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and _CHUNK.fullmatch(key):
            raise InputError(
                f"{self._store}: the chunk {key} of a committed row is gone: open the store again "
                "(it may have been recomputed), or run `ontogeny store verify --repair`"
            )
        return found


@dataclass(frozen=True)
class Form:
    """One stored form of an array: rows in order of arrival, or a trajectory.

    folder, path: the place of the Zarr array in the store. chunk: the shape that is decoded at
    once; shard: the shape of one object. rows: the storage rows in order of step; None where they
    are stored in that order. metadata: those of the array as Zarr stores them, so that opening it
    takes no request.
    """

    folder: str
    path: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    metadata: Mapping[str, Any] = field(hash=False, compare=False)
    rows: tuple[int, ...] | None = None

    def cost(self, counts: Sequence[int]) -> int:
        """Return the cost of reading `counts` entries per dimension, in numbers read.

        A lower bound: it assumes that the entries share as few chunks as they can.
        """
        sharded = 2 if self.shard != self.chunk else 1  # reads of the index and of a part
        requests = prod(ceil(n / size) for n, size in zip(counts, self.shard, strict=True))
        numbers = prod(ceil(n / size) * size for n, size in zip(counts, self.chunk, strict=True))
        return requests * sharded * _REQUEST + numbers


class StoredArray(BackendArray):
    """One array of a store in order of step, read from the cheapest of its forms.

    It is opened when it is first read, and again in each process to which it is sent.
    """

    def __init__(
        self, uri: str, forms: Sequence[Form], shape: tuple[int, ...], dtype: str | type
    ) -> None:
        self.uri, self.forms, self.shape, self.dtype = uri, tuple(forms), shape, np.dtype(dtype)
        self._opened: dict[Form, zarr.Array] = {}

    # An open Zarr array holds locks and sessions, which other processes cannot use.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    # With a deterministic token, xarray and dask recognise the same array without pickling it.
    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.uri, self.forms, self.shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        shown = [_forward(part, size) for part, size in zip(key, self.shape, strict=True)]
        counts = [_count(part, size) for part, size in zip(shown, self.shape, strict=True)]
        form = min(self.forms, key=lambda form: form.cost(counts))
        if form.rows is not None:
            shown[0] = np.array(form.rows)[shown[0]]
        try:
            with access(self.uri):
                values = self._open(form).oindex[tuple(shown)]
        except InputError:
            raise
        # zarr-python and numcodecs raise these for checksums and compressed data that are wrong.
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.uri}: {form.folder}/{form.path} is damaged ({error}): run "
                "`ontogeny store verify --repair` and the analysis again"
            ) from error
        # float16 becomes float32 again; Zarr's own string dtype becomes object.
        return np.asarray(values, dtype=self.dtype)

    def _open(self, form: Form) -> zarr.Array:
        if form not in self._opened:
            folder = Complete(Objects(self.uri).zarr(form.folder, read_only=True))
            self._opened[form] = open_described(folder, form.path, form.metadata)
        return self._opened[form]


def open_described(folder: ZarrStore, path: str, metadata: Mapping[str, Any]) -> zarr.Array:
    """Open an array from its known metadata, without a request."""
    return zarr.Array.from_dict(StorePath(folder, path), dict(metadata))


def described(array: zarr.Array) -> dict[str, Any]:
    """Return an array's metadata as Zarr stores it."""
    content = array.metadata.to_buffer_dict(default_buffer_prototype())
    return json.loads(content["zarr.json"].to_bytes())


def _forward(part: Any, size: int) -> Any:
    """Replace a slice with a negative step, which Zarr does not support, by its indices."""
    return np.arange(size)[part] if isinstance(part, slice) and (part.step or 1) < 0 else part


def _count(part: Any, size: int) -> int:
    if isinstance(part, slice):
        return len(range(*part.indices(size)))
    return len(part) if isinstance(part, np.ndarray) else 1
