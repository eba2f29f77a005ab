"""Rows that are being written: their identity, and checks that each fills only its own chunks."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import zarr

from pipeline.schema import Value, Values
from pipeline.store.layout import ROW_ARRAYS, arrays_of
from pipeline.store.objects import Objects

ROWS = "rows"


@dataclass(frozen=True)
class Row:
    """The identity of a row that is being written.

    digest: of the checkpoint's weights. tokens_seen: None where unknown.
    details: JSON kept in the marker (parts of the fingerprint, deviations such as a halved batch).
    """

    step: int
    row: int
    fingerprint: str
    digest: str
    uri: str
    tokens_seen: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the row's values in the arrays that every group has (`ROW_ARRAYS`)."""
        tokens = float("nan") if self.tokens_seen is None else self.tokens_seen
        return {
            "step": np.asarray(self.step, np.int64),
            "tokens_seen": np.asarray(tokens, np.float64),
            "uri": np.asarray(self.uri),
            "digest": np.asarray(self.digest),
        }


def arrays_for(uri: str, group: str, variant: str, row: int) -> dict[str, zarr.Array]:
    """Return the arrays in which `row` was reserved, opened once in each process.

    Raises ValueError where the row was not reserved, or the variant not prepared.
    """
    arrays = _opened(uri, group, variant, os.getpid())
    # The coordinator may have reserved more rows since the arrays were opened.
    if row >= arrays["step"].shape[0]:
        _opened.cache_clear()  # an `lru_cache` cannot drop a single entry
        arrays = _opened(uri, group, variant, os.getpid())
    reserved = arrays["step"].shape[0]
    if not 0 <= row < reserved:
        raise ValueError(
            f"{uri}: row {row} of {group!r} was never reserved ({reserved} are): "
            "another worker may get it and overwrite this one; write rows given by reserve() only"
        )
    return arrays


def checked(where: str, arrays: Mapping[str, zarr.Array], values: Values) -> dict[str, np.ndarray]:
    """Return the values as they will be stored.

    Raises ValueError where they do not fill their chunks exactly, or would change when cast.
    """
    expected = set(arrays) - set(ROW_ARRAYS)
    if expected != set(values):
        raise ValueError(
            f"{where}: expected the variables {sorted(expected)}, found {sorted(values)}: "
            "the row would be incomplete; make compute() return what the measure declares"
        )
    return {name: _fitted(where, name, arrays[name], value) for name, value in values.items()}


def checksum(value: np.ndarray) -> str:
    """Return the sha256, in hex, of an array's values.

    Numbers in C order, little-endian; strings as UTF-8, separated by NUL.
    """
    if value.dtype.kind in "iuf":
        little = value.dtype.newbyteorder("<")
        return hashlib.sha256(np.ascontiguousarray(value, dtype=little).data).hexdigest()
    return hashlib.sha256("\0".join(map(str, value.ravel())).encode()).hexdigest()


# `process` is part of the key, because open arrays cannot be used in a forked process.
@lru_cache
def _opened(uri: str, group: str, variant: str, process: int) -> dict[str, zarr.Array]:
    root = zarr.open_group(Objects(uri).zarr(ROWS), mode="r+", zarr_format=3)
    found = root.get(f"{group}/{variant}")
    if not isinstance(found, zarr.Group):
        raise ValueError(
            f"{uri}: variant {variant} of {group!r} was not prepared: call require_groups()"
        )
    # Zarr leaves out chunks of fill values by default; one of NaN would look like a lost chunk.
    return {n: a.with_config({"write_empty_chunks": True}) for n, a in arrays_of(found).items()}


def _fitted(where: str, name: str, array: zarr.Array, value: Value) -> np.ndarray:
    value = np.asarray(value)
    if value.shape != array.shape[1:]:
        raise ValueError(
            f"{where}: {name!r} has shape {value.shape}, expected {array.shape[1:]}: it would not "
            "fill the one chunk that this row owns; make compute() return the declared dims"
        )
    # "same_kind" allows float64 to float32, which loses digits as declared, but no float to int.
    castable = np.can_cast(value.dtype, array.dtype, "same_kind")
    with np.errstate(over="ignore"):
        stored = value.astype(array.dtype) if castable else None
    # An integer that overflows would wrap around silently.
    if stored is None or (stored.dtype.kind == "i" and not np.array_equal(stored, value)):
        raise ValueError(
            f"{where}: {name!r} has dtype {value.dtype}, expected {array.dtype}: its values would "
            "change; declare the dtype that compute() returns"
        )
    if array.dtype == np.float16 and (np.isfinite(value) & ~np.isfinite(stored)).any():
        raise ValueError(
            f"{where}: {name!r} reaches {np.nanmax(np.abs(value)):.6g}, and float16 ends at 65504: "
            "store it as float32"
        )
    return stored


def rounding(stored: Mapping[str, np.ndarray], values: Values) -> dict[str, float]:
    """Return the largest rounding error of each variable that is stored as float16."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity; infinities are stored unchanged
        lost = {
            name: np.abs(np.asarray(values[name], np.float64) - kept)
            for name, kept in stored.items()
            if kept.dtype == np.float16
        }
    return {name: float(np.max(d, where=np.isfinite(d), initial=0)) for name, d in lost.items()}
