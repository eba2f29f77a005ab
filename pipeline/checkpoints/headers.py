"""The header of a safetensors file: all tensors' names, shapes and dtypes, and the file's size.

The format (huggingface/safetensors, README): 8 bytes, little-endian: the length n of the header;
n bytes of JSON, `{name: {"dtype", "shape", "data_offsets": [begin, end]}}`; the data, from offset
0 without gaps. A few kilobytes thus describe a file of gigabytes in any storage.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_LARGEST = 100_000_000  # the format's own limit for its header
_PREFIX = 8
_MOST_IN_A_BYTE = 8  # numbers: no dtype has less than one bit
_FIRST_READ = 2**16  # bytes; most headers are shorter, and take a single request


@dataclass(frozen=True)
class TensorFacts:
    """One tensor: its dtype as safetensors spells it ("F32"), and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file. size: the bytes that the complete file must have."""

    tensors: Mapping[str, TensorFacts]
    size: int


def read_header(read: Callable[[int, int], bytes]) -> Header:
    """Return the header of a file whose bytes are read by `read(start, stop)`.

    Raises EOFError if the file ends within its header, ValueError if it has another format.
    """
    first = read(0, _FIRST_READ)
    if len(first) < _PREFIX:
        raise EOFError(f"it has {len(first)} bytes, less than the length of a header")
    length = int.from_bytes(first[:_PREFIX], "little")
    if not 2 <= length <= _LARGEST:
        raise ValueError(f"it begins with a header length of {length}")
    stop = _PREFIX + length
    if stop > len(first):
        first += read(len(first), stop)
    if len(first) < stop:
        raise EOFError(f"its header of {length} bytes is cut off")
    return _parsed(first[_PREFIX:stop])


def _parsed(text: bytes) -> Header:
    try:
        content = json.loads(text)
        content.pop("__metadata__", None)  # free text; all other keys are tensors
        tensors = {name: _facts(facts) for name, facts in content.items()}
        end = max((int(facts["data_offsets"][1]) for facts in content.values()), default=0)
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError,
        ArithmeticError,
    ) as error:  # fmt: skip
        raise ValueError("its header is not what safetensors writes") from error
    return Header(tensors, _PREFIX + len(text) + end)


def _facts(facts: Any) -> TensorFacts:
    """Return dtype and shape of one tensor. Raises ValueError if its bytes are too few for them."""
    shape, (start, stop) = facts["shape"], facts["data_offsets"]
    # Tensors of these shapes are built later: a damaged header must not exhaust memory or overflow.
    if not all(type(size) is int and 0 <= size < 2**63 for size in (*shape, start, stop)):
        raise ValueError("a size that is no count")
    if math.prod(shape) > _MOST_IN_A_BYTE * (stop - start):
        raise ValueError("a shape that is larger than the data")
    return TensorFacts(str(facts["dtype"]), tuple(shape))
