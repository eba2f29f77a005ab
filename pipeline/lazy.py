"""Stored arrays as xarray reads them: nothing is read before its values are needed.

What is damaged is an error here, never a number: the chunks carry checksums, and an absent chunk,
which Zarr would read as NaN, is refused, because every committed row has all of its chunks.
"""

import re
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from pipeline.errors import InputError
from pipeline.objects import Objects, access

_CHUNK = re.compile(r".+/c(/\d+)+")


class Complete(WrapperStore[ZarrStore]):
    """A Zarr store in which an absent chunk is an error."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The object's content; InputError for a chunk that is not there."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and _CHUNK.fullmatch(key):
            raise InputError(
                f"{self._store}: the chunk {key} of a committed row is gone: "
                "run `ontogeny store verify --repair` and the analysis again"
            )
        return found


class StoredArray(BackendArray):
    """One Zarr array of a store, as it is (rows=None), or only its `rows`, in that order.

    address: the store's URI, a folder in it, and the array's path there. It is opened when it is
    first read (unless `array` is given), and anew in each process that it is sent to.
    """

    def __init__(
        self,
        address: tuple[str, str, str],
        shape: tuple[int, ...],
        dtype: str,
        rows: np.ndarray | None = None,
        array: zarr.Array | None = None,
    ) -> None:
        self.uri, self.folder, self.path = address
        self.shape, self.dtype, self.rows, self._array = shape, np.dtype(dtype), rows, array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        rows = None if self.rows is None else self.rows.tolist()
        return (self.uri, self.folder, self.path, self.shape, rows)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        shown = [_forward(part, size) for part, size in zip(key, self.shape, strict=True)]
        if self.rows is not None:
            shown[0] = self.rows[shown[0]]
        try:
            with access(self.uri):
                values = self._opened().oindex[tuple(shown)]
        except (ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.uri}: {self.folder}/{self.path} is damaged ({error}): "
                "run `ontogeny store verify --repair` and the analysis again"
            ) from error
        return np.asarray(values, dtype=self.dtype)

    def _opened(self) -> zarr.Array:
        if self._array is None:
            store = Complete(Objects(self.uri).zarr(self.folder, read_only=True))
            self._array = zarr.open_array(store, path=self.path, mode="r")
        return self._array


def _forward(part: Any, size: int) -> Any:
    """Zarr knows no slice that runs backwards."""
    return np.arange(size)[part] if isinstance(part, slice) and (part.step or 1) < 0 else part
