"""Stored arrays as xarray reads them, lazily.

What is damaged is an error here, never a number: packs and the chunks of trajectories carry
checksums, and an absent chunk, which Zarr would read as NaN, is refused.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, prod
from threading import Lock
from typing import Any

import numpy as np
import zarr
from cachetools import LRUCache
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import ByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import StorePath, WrapperStore

from pipeline.errors import InputError
from pipeline.outside import parsed_json
from pipeline.store.access import access
from pipeline.store.commits import Commit
from pipeline.store.objects import Objects
from pipeline.store.packs import Pack, decode
from pipeline.store.sealed import DamagedError
from pipeline.store.templates import LABELS

# Zarr's default encoding of the key of a chunk: <array>/c/<index>/<index>/...
_CHUNK = re.compile(r".+/c(/\d+)+")
_REQUEST = 2**16  # a request costs about as much as reading so many numbers
_AT_ONCE = 256  # packs that are asked for together
_KEPT = 2**26  # bytes of packs that a process keeps: each is asked for once per variable else

_packs: LRUCache[tuple[str, str], Pack] = LRUCache(_KEPT, getsizeof=lambda pack: pack.body.nbytes)
_packs_lock = Lock()


class Complete(WrapperStore[ZarrStore]):
    """A Zarr store that raises InputError for an absent chunk."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the object's content; raise InputError for a chunk that is not there."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and _CHUNK.fullmatch(key):
            raise InputError(
                f"{self._store}: the chunk {key} of a committed row is gone: open the store again "
                "(it may have been recomputed), or run `ontogeny store verify --repair`"
            )
        return found


@dataclass(frozen=True)
class Along:
    """An array of trajectories: plain Zarr, along the steps of the rows that it was made of.

    folder, name: where it is in the store. chunk: what is decoded at once; shard: what one object
    holds. index: for each row of the reader, its place in the array, -1 for one that is not there;
    None where the array does not hold all of them, and only those: the folder says which it holds.
    metadata: the array's, as Zarr stores it, so that opening it asks for nothing.
    """

    folder: str
    name: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    index: tuple[int, ...] | None
    metadata: Mapping[str, Any] = field(hash=False, compare=False)

    def cost(self, counts: Sequence[int]) -> int:
        """Return the numbers to be read for `counts` entries of each dimension, with requests."""
        sharded = 2 if self.shard != self.chunk else 1  # its index, and a part of it
        requests = prod(ceil(n / size) for n, size in zip(counts, self.shard, strict=True))
        numbers = prod(ceil(n / size) * size for n, size in zip(counts, self.chunk, strict=True))
        return requests * sharded * _REQUEST + numbers


class StoredArray(BackendArray):
    """One variable or label of a group in order of step, from trajectories and from packs.

    A question is answered from the trajectories where they have the rows and that is cheaper; rows
    that were written since are read from their packs. It is opened when it is first read, and anew
    in each process that it is sent to.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        commits: Sequence[Commit],
        shape: tuple[int, ...],
        dtype: np.dtype | type | str,
        along: Along | None = None,
    ) -> None:
        self.uri, self.name, self.commits = uri, name, tuple(commits)
        # As a dtype, `str` would cut every text to one character.
        self.dtype = np.dtype(object if dtype is str else dtype)
        self.shape, self.along = (len(commits), *shape), along
        self._opened: zarr.Array | None = None

    # An open Zarr array holds locks and sessions, which other processes cannot use.
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    # With a deterministic token, xarray and dask recognise the same array without pickling it.
    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.uri, self.name, self.commits, self.along)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self.read
        )

    def read(self, key: tuple[Any, ...]) -> Any:
        """Return the numbers, or the one, that an index for each dimension selects.

        Raises InputError where they are gone or damaged.
        """
        steps, *rest = key
        wanted = np.atleast_1d(np.arange(self.shape[0])[steps])
        parts = tuple(_forward(part, size) for part, size in zip(rest, self.shape[1:], strict=True))
        counts = [_count(part, size) for part, size in zip(parts, self.shape[1:], strict=True)]
        there = self._from_trajectories(wanted, counts)
        shape = [n for n, part in zip(counts, parts, strict=True) if not np.isscalar(part)]
        values = np.empty((len(wanted), *shape), self.dtype)
        if there.any():
            values[there] = self._along(wanted[there], parts)
        if not there.all():
            values[~there] = self._packed(wanted[~there], parts)
        return values[0, ...] if np.isscalar(steps) else values

    def _from_trajectories(self, wanted: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """Return which of the rows are to be read from the trajectories."""
        if self.along is None or not len(wanted):
            return np.zeros(len(wanted), bool)
        there = self._index()[wanted] >= 0
        packed = int(there.sum()) * (_REQUEST + prod(self.shape[1:]))
        return there & (self.along.cost([int(there.sum()), *counts]) <= packed)

    def _along(self, wanted: np.ndarray, parts: tuple[Any, ...]) -> np.ndarray:
        along = self.along
        assert along is not None
        if self._opened is None:
            folder = Complete(Objects(self.uri).zarr(along.folder, read_only=True))
            self._opened = open_described(folder, along.name, along.metadata)
        index = _consecutive(self._index()[wanted])
        try:
            with access(self.uri):
                return np.asarray(self._opened.oindex[(index, *parts)])
        except InputError:
            raise
        except FileNotFoundError as error:
            raise _gone(self.uri, along.folder) from error
        # zarr-python and numcodecs raise these for checksums and compressed data that are wrong.
        except (ValueError, RuntimeError) as error:
            raise _damaged(self.uri, f"{along.folder}/{along.name}", error) from error

    def _index(self) -> np.ndarray:
        """Return the place of each row in the trajectories, -1 for one that is not there."""
        along = self.along
        assert along is not None
        if along.index is not None:
            return np.array(along.index)
        place = {key: at for at, key in enumerate(rows_in(self.uri, along.folder))}
        return np.array([place.get(commit.key, -1) for commit in self.commits])

    def _packed(self, wanted: np.ndarray, parts: tuple[Any, ...]) -> np.ndarray:
        rows = []
        for start in range(0, len(wanted), _AT_ONCE):
            commits = [self.commits[place] for place in wanted[start : start + _AT_ONCE]]
            packs = packs_of(self.uri, commits)
            for commit in commits:
                # A copy, because a view would keep all of a large variable in memory.
                rows.append(_outer(self._value(commit, packs[commit]), parts).copy())
        return np.stack(rows)

    def _value(self, commit: Commit, pack: Pack) -> np.ndarray:
        if self.name in LABELS:
            return np.asarray(pack.labels[self.name], self.dtype)
        key, large = commit.key, None
        try:
            if pack.is_large(self.name):
                key = commit.large_key(self.name)
                large = Objects(self.uri).read(key)
                if large is None:
                    raise DamagedError("is gone")
            return pack.array(self.name, large)
        except DamagedError as error:
            raise _damaged(self.uri, key, error) from error


@lru_cache(maxsize=256)
def rows_in(uri: str, folder: str) -> tuple[str, ...]:
    """Return the keys of the rows that a folder of trajectories holds, in order."""
    content = Objects(uri).read(f"{folder}/zarr.json")
    if content is None:
        raise _gone(uri, folder)
    try:
        return tuple(parsed_json(content, finite=False)["attributes"]["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(uri, f"{folder}/zarr.json", error) from error


def packs_of(uri: str, commits: Sequence[Commit]) -> dict[Commit, Pack]:
    """Return the packs of some rows. Raises InputError where one is gone or damaged."""
    with _packs_lock:
        found = {c: _packs[uri, c.key] for c in commits if (uri, c.key) in _packs}
    missing = [commit for commit in commits if commit not in found]
    contents = Objects(uri).read_all([commit.key for commit in missing])
    for commit in missing:
        if commit.key not in contents:
            raise InputError(
                f"{uri}: {commit.key}, a committed row, is gone: open the store again (it may have "
                "been recomputed), or run `ontogeny store verify --repair`"
            )
        try:
            found[commit] = decode(contents[commit.key])
        except DamagedError as error:
            raise _damaged(uri, commit.key, error) from error
        with _packs_lock:
            if found[commit].body.nbytes <= _KEPT:
                _packs[uri, commit.key] = found[commit]
    return found


def open_described(folder: ZarrStore, path: str, metadata: Mapping[str, Any]) -> zarr.Array:
    """Return an array whose metadata is known, opened without asking for it."""
    return zarr.Array.from_dict(StorePath(folder, path), dict(metadata))


def described(array: zarr.Array) -> dict[str, Any]:
    """Return an array's metadata as Zarr stores it."""
    content = array.metadata.to_buffer_dict(default_buffer_prototype())
    return json.loads(content["zarr.json"].to_bytes())


def _gone(uri: str, folder: str) -> InputError:
    return InputError(
        f"{uri}: {folder} is gone: open the store again (its trajectories may have been written "
        "anew), or run `ontogeny store verify --repair`"
    )


def _damaged(uri: str, key: str, error: Exception) -> InputError:
    return InputError(
        f"{uri}: {key} is damaged ({error}): run `ontogeny store verify --repair` and the analysis "
        "again"
    )


def _consecutive(index: np.ndarray) -> np.ndarray | slice:
    """Return indices as a slice where they are consecutive.

    Given an array, Zarr 3.1 makes an index of every single number, which takes ten times the memory
    of the numbers and twice the time.
    """
    first = int(index[0])
    whole = np.array_equal(index, np.arange(first, first + len(index)))
    return slice(first, first + len(index)) if whole else index


def _outer(value: np.ndarray, parts: Sequence[Any]) -> Any:
    """Index each axis by itself, as Zarr's `oindex` does; numpy would pair arrays of indices."""
    for axis in reversed(range(len(parts))):
        value = value[(*(slice(None),) * axis, parts[axis], ...)]  # ...: never a bare number
    return value


def _forward(part: Any, size: int) -> Any:
    """Return a part without a slice that runs backwards, which Zarr does not know."""
    return np.arange(size)[part] if isinstance(part, slice) and (part.step or 1) < 0 else part


def _count(part: Any, size: int) -> int:
    if isinstance(part, slice):
        return len(range(*part.indices(size)))
    return len(part) if isinstance(part, np.ndarray) else 1
