"""The header of a safetensors file: all tensors' names, shapes and dtypes, and the file's size.

The format (huggingface/safetensors, README): 8 bytes, little-endian: the length n of the header;
n bytes of JSON, `{name: {"dtype", "shape", "data_offsets": [begin, end]}}`; the data, from offset
0 without gaps. A few kilobytes thus describe a file of gigabytes in any storage.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipeline.errors import first_line
from pipeline.outside import is_whole, parsed_json

_LARGEST = 16 * 2**20  # bytes; some 200,000 tensors. The format allows 100 MB
_LARGEST_KEPT = 2**20  # bytes of a header that is kept in memory for the next equal one
_PREFIX = 8
_MOST_IN_A_BYTE = 8  # numbers: no dtype has less than one bit
_FIRST_READ = 2**16  # bytes; most headers are shorter, and take a single request

# Bits of a number of each dtype. Others, of later versions of the format, are not compared.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16,
    "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class TensorFacts:
    """One tensor: its dtype as safetensors spells it ("F32"), and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    size: the bytes that the complete file must have. spans: of each tensor's bytes in the file, the
    first and the one after the last.
    """

    tensors: Mapping[str, TensorFacts]
    size: int
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def read_header(read: Callable[[int, int], bytes], size: int | None = None) -> Header:
    """Return the header of a file whose bytes are read by `read(start, stop)`.

    size: of the file, if it is known: a header that does not fit into it is not read. Raises
    EOFError if the file ends within its header, ValueError if it has another format.
    """
    first = read(0, _FIRST_READ)
    if len(first) < _PREFIX:
        raise EOFError(f"it has {len(first)} bytes, less than the length of a header")
    length = int.from_bytes(first[:_PREFIX], "little")
    if not 2 <= length <= _LARGEST:
        raise ValueError(f"it begins with a header length of {length}")
    stop = _PREFIX + length
    if size is not None and stop > size:
        raise EOFError(f"its header of {length} bytes is cut off")
    if stop > len(first):
        first += read(len(first), stop)
    if len(first) < stop:
        raise EOFError(f"its header of {length} bytes is cut off")
    text = first[_PREFIX:stop]
    return _parsed(text) if len(text) > _LARGEST_KEPT else _parsed_once(text)


@lru_cache(maxsize=32)
def _parsed_once(text: bytes) -> Header:
    # All checkpoints of a run have the same headers.
    return _parsed(text)


def _parsed(text: bytes) -> Header:
    try:
        content = parsed_json(text)
        content.pop("__metadata__", None)  # free text; all other keys are tensors
        tensors = {name: _facts(name, facts) for name, facts in content.items()}
        offsets = {name: facts["data_offsets"] for name, facts in content.items()}
        end = _end_of_data(offsets.values())
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"its header is not what safetensors writes ({first_line(error)[:200]})"
        ) from error
    data = _PREFIX + len(text)
    spans = {name: (data + start, data + stop) for name, (start, stop) in offsets.items()}
    return Header(tensors, data + end, spans)


def _facts(name: str, facts: Any) -> TensorFacts:
    """Return dtype and shape of one tensor. Raises ValueError if its bytes are not those of it."""
    shape, (start, stop) = facts["shape"], facts["data_offsets"]
    # Tensors of these shapes are built later: a damaged header must not exhaust memory or overflow.
    if not isinstance(shape, list) or not all(is_whole(size) for size in (*shape, start, stop)):
        raise ValueError(f"{name!r} has a size that is no count")
    dtype, count = facts["dtype"], math.prod(shape)
    if not isinstance(dtype, str):
        raise ValueError(f"{name!r} has a dtype that is no name")
    bits = _BITS.get(dtype)
    if count > _MOST_IN_A_BYTE * (stop - start) or (
        bits is not None and count * bits != 8 * (stop - start)
    ):
        raise ValueError(
            f"{name!r} is {dtype} of shape {shape}, and has {stop - start} bytes of data"
        )
    return TensorFacts(dtype, tuple(shape))


def _end_of_data(spans: Any) -> int:
    """Return the offset at which the data end. Raises ValueError for overlaps and for gaps."""
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a gap at byte {end} of the data")
        end = stop
    return end
