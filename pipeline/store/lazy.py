"""Stored arrays as xarray reads them: nothing is read before its values are needed.

What is damaged is an error here, never a number: the chunks carry checksums, and an absent chunk,
which Zarr would read as NaN, is refused, because every committed row has all of its chunks.
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

_CHUNK = re.compile(r".+/c(/\d+)+")
_REQUEST = 2**16  # a request costs about as much as reading so many numbers


class Complete(WrapperStore[ZarrStore]):
    """A Zarr store in which an absent chunk is an error."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The object's content; InputError for a chunk that is not there."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and _CHUNK.fullmatch(key):
            raise InputError(
                f"{self._store}: the chunk {key} of a committed row is gone: open the store again "
                "(it may have been recomputed), or run `ontogeny store verify --repair`"
            )
        return found


@dataclass(frozen=True)
class Form:
    """One way in which an array is stored: by rows in order of arrival, or by trajectories.

    folder, path: where the Zarr array is in the store. chunk: what is decoded at once; shard:
    what one object holds. rows: the storage rows in order of step; None where that is the order.
    metadata: the array's, as Zarr stores it, so that opening it asks for nothing.
    """

    folder: str
    path: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    metadata: Mapping[str, Any] = field(hash=False, compare=False)
    rows: tuple[int, ...] | None = None

    def cost(self, counts: Sequence[int]) -> int:
        """Numbers to be read for `counts` entries of each dimension, requests counted in."""
        sharded = 2 if self.shard != self.chunk else 1  # its index, and a part of it
        requests = prod(ceil(n / size) for n, size in zip(counts, self.shard, strict=True))
        numbers = prod(ceil(n / size) * size for n, size in zip(counts, self.chunk, strict=True))
        return requests * sharded * _REQUEST + numbers


class StoredArray(BackendArray):
    """One array of a store in order of step, read in the cheapest of its forms.

    It is opened when it is first read, and anew in each process that it is sent to.
    """

    def __init__(
        self, uri: str, forms: Sequence[Form], shape: tuple[int, ...], dtype: str | type
    ) -> None:
        self.uri, self.forms, self.shape, self.dtype = uri, tuple(forms), shape, np.dtype(dtype)
        self._opened: dict[Form, zarr.Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

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
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.uri}: {form.folder}/{form.path} is damaged ({error}): run "
                "`ontogeny store verify --repair` and the analysis again"
            ) from error
        return np.asarray(values, dtype=self.dtype)

    def _open(self, form: Form) -> zarr.Array:
        if form not in self._opened:
            folder = Complete(Objects(self.uri).zarr(form.folder, read_only=True))
            self._opened[form] = open_described(folder, form.path, form.metadata)
        return self._opened[form]


def open_described(folder: ZarrStore, path: str, metadata: Mapping[str, Any]) -> zarr.Array:
    """An array whose metadata is known, opened without asking for it."""
    return zarr.Array.from_dict(StorePath(folder, path), dict(metadata))


def described(array: zarr.Array) -> dict[str, Any]:
    """An array's metadata as Zarr stores it."""
    content = array.metadata.to_buffer_dict(default_buffer_prototype())
    return json.loads(content["zarr.json"].to_bytes())


def _forward(part: Any, size: int) -> Any:
    """Zarr knows no slice that runs backwards."""
    return np.arange(size)[part] if isinstance(part, slice) and (part.step or 1) < 0 else part


def _count(part: Any, size: int) -> int:
    if isinstance(part, slice):
        return len(range(*part.indices(size)))
    return len(part) if isinstance(part, np.ndarray) else 1
