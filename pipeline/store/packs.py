"""Packs: all small variables of one row in one object, with checksums.

    ontogeny pack 1\\n
    <length of the header, 12 digits>\\n
    <header: JSON>\\n<sha256 of the header>\\n
    <the variables, one after another, as Blosc (zstd) buffers>

The header says what the row is, and of each variable its dtype, shape, place in the object, and
checksum. A variable of more than `LARGE` bytes is an object of its own, which is written before
the pack, so that what a pack refers to is always there. Creating the pack commits the row.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numcodecs import Blosc

from pipeline.store.fingerprint import canonical_json
from pipeline.store.sealed import DamagedError, parsed

MAGIC = b"ontogeny pack 1\n"
LARGE = 2**20  # bytes of a variable of one row
_BLOCK = 2**28  # bytes of one Blosc buffer, which can hold 2**31
_CODEC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE)


@dataclass(frozen=True)
class Row:
    """The identity of a row that is being written.

    digest: of the checkpoint's weights. tokens_seen: None where unknown.
    details: JSON kept in the header (parts of the fingerprint, deviations such as a halved batch).
    """

    step: int
    fingerprint: str
    digest: str
    uri: str
    tokens_seen: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """The part of the fingerprint that rows shown side by side have in common."""
        return self.fingerprint.partition("-")[0]


@dataclass(frozen=True)
class Pack:
    """A row that was read. header: see `encode`. Nothing is decoded before it is asked for."""

    header: Mapping[str, Any]
    body: memoryview

    @cached_property
    def labels(self) -> dict[str, Any]:
        """The row's values of the coordinates along "step"."""
        row = self.header["row"]
        tokens = row["tokens_seen"]
        return {
            "step": row["step"],
            "tokens_seen": float("nan") if tokens is None else float(tokens),
            "uri": row["uri"],
            "digest": row["digest"],
        }

    @property
    def checksums(self) -> dict[str, str]:
        """By variable, `checksum` of its values."""
        return {name: about["checksum"] for name, about in self.header["variables"].items()}

    def is_large(self, name: str) -> bool:
        """Tell whether a variable is an object of its own."""
        return "at" not in self.header["variables"][name]

    def array(self, name: str, large: bytes | None = None) -> np.ndarray:
        """Return a variable of the row. Raises DamagedError.

        large: the content of its own object, where it is large.
        """
        about = self.header["variables"][name]
        start, stop = about.get("at", (0, 0))
        content = self.body[start:stop] if large is None else large
        if hashlib.sha256(content).hexdigest() != about["stored"]:
            raise DamagedError(f"{name} does not match its checksum")
        return _decode(content, about["blocks"], about["dtype"], about["shape"])


def encode(row: Row, values: Mapping[str, np.ndarray], rounding: Mapping[str, float]) -> "Encoded":
    """Return the objects of a row: its large variables by name, and its pack."""
    header = {
        "row": {
            "step": row.step,
            "fingerprint": row.fingerprint,
            "digest": row.digest,
            "uri": row.uri,
            "tokens_seen": row.tokens_seen,
        },
        "details": row.details,
        "rounding": rounding,
    }
    return packed(header, values, LARGE)


def packed(
    header: Mapping[str, Any], values: Mapping[str, np.ndarray], large_from: int | None = None
) -> "Encoded":
    """Return a pack with this header, to which what it says of the variables is added.

    large_from: bytes above which a variable becomes an object of its own; None for none.
    """
    variables, large, parts, at = {}, {}, [], 0
    for name, value in values.items():
        content, blocks = _encode(value)
        about: dict[str, Any] = {
            "dtype": value.dtype.newbyteorder("<").str,
            "shape": list(value.shape),
            "blocks": blocks,
            "stored": hashlib.sha256(content).hexdigest(),
            "checksum": checksum(value),
        }
        if large_from is not None and value.nbytes > large_from:
            large[name] = content
        else:
            about["at"] = [at, at + len(content)]
            parts.append(content)
            at += len(content)
        variables[name] = about
    text = canonical_json({**header, "variables": variables}).encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    head = b"".join([MAGIC, f"{len(text):012d}\n".encode(), text, b"\n", seal, b"\n"])
    return Encoded(head + b"".join(parts), large)


@dataclass(frozen=True)
class Encoded:
    """The objects of a row that is being written."""

    pack: bytes
    large: Mapping[str, bytes]


def decode(content: bytes) -> Pack:
    """Return the row in a pack. Raises DamagedError where its header is not what was written."""
    start = len(MAGIC) + 13
    if content[: len(MAGIC)] != MAGIC or not content[len(MAGIC) : start - 1].isdigit():
        raise DamagedError("is no pack" if content else "is empty")
    stop = start + int(content[len(MAGIC) : start - 1])
    text, seal = content[start:stop], content[stop + 1 : stop + 65]
    if hashlib.sha256(text).hexdigest().encode() != seal:
        raise DamagedError("has a header that does not match its checksum")
    return Pack(parsed(text), memoryview(content)[stop + 66 :])


def checksum(value: np.ndarray) -> str:
    """Return the sha256, in hex, of an array's values in C order, little-endian."""
    little = value.dtype.newbyteorder("<")
    return hashlib.sha256(np.ascontiguousarray(value, dtype=little).data).hexdigest()


def _encode(value: np.ndarray) -> tuple[bytes, list[int]]:
    """Return the compressed bytes of an array, and the lengths of the blocks they consist of."""
    plain = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(-1)
    width = max(_BLOCK // plain.itemsize, 1)
    blocks = [
        bytes(_CODEC.encode(plain[start : start + width])) for start in range(0, plain.size, width)
    ]
    return b"".join(blocks), [len(block) for block in blocks]


def _decode(
    content: bytes | memoryview, blocks: Sequence[int], dtype: str, shape: Sequence[int]
) -> np.ndarray:
    out, at = np.empty(prod(shape), dtype), 0
    width = max(_BLOCK // out.itemsize, 1)
    for index, length in enumerate(blocks):
        part = _CODEC.decode(content[at : at + length])
        out[index * width : (index + 1) * width] = np.frombuffer(part, dtype)
        at += length
    return out.reshape(tuple(shape))
