"""What the bytes of one checkpoint tell: read once, kept as a sketch of fixed size.

A sketch of a weight file is its matrices, in the order of their names, every k-th element of them
all, with k such that at most `_LENGTH` remain. Distances between sketches are, up to one factor for
all, those between the matrices: the elements that are left out are no different. (Vectors are left
out: gains that begin as ones and biases that begin as zeros make any two runs look alike. A file of
vectors alone is sketched by them.)
"""

import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.contents import tensors_by_part
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.floats import FLOATS, non_finite, refuse_quantised, why_non_finite
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.stored import Folder
from pipeline.models.fit import is_computed_buffer
from pipeline.models.loading import read_weights

_LENGTH = 2**16
_VERSION = 3  # of what is remembered


@dataclass(frozen=True, eq=False)
class Sketch:
    """One checkpoint's weights, in brief.

    parts: by file name ("" for the only one), the elements that are kept. non_finite: in words,
    which tensors hold NaN or infinities, and how many; "" for none. zeros, alive: the names of
    matrices that hold nothing but zeros, and of the others.
    """

    parts: Mapping[str, Float[np.ndarray, " element"]]
    non_finite: str
    zeros: tuple[str, ...]
    alive: tuple[str, ...]


def sketch_of(checkpoint: Checkpoint, copies: Copies) -> Sketch:
    """The sketch of a checkpoint; remembered by its digest, so that its bytes are read once.

    Raises CheckpointError where it cannot be read, or is not what its place says; OSError where
    its place cannot be reached.
    """
    with copies.of(checkpoint) as copy:
        digest = copy.checkpoint.digest
        found = recall("sketches", f"{_VERSION} {digest}")
        if found is not None:
            return _unpacked(found)
        weights = copy.read(read_weights)
        digest = copy.checkpoint.digest  # of the bytes that were read
        sketch = _sketch(weights, _files_of_tensors(copy.folder))
    remember("sketches", f"{_VERSION} {digest}", _packed(sketch))
    return sketch


def _files_of_tensors(folder: Path) -> Mapping[str, str]:
    place = place_of(str(folder))
    return tensors_by_part(
        place, Folder(folder.name, str(folder), place.files_of([str(folder)])[0])
    )


def _sketch(weights: Mapping[str, Tensor], files: Mapping[str, str]) -> Sketch:
    floats = {name: weights[name] for name in sorted(weights) if weights[name].dtype in FLOATS}
    found = non_finite({n: t for n, t in floats.items() if not is_computed_buffer(n)})
    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    whole = {n for n, t in weights.items() if t.ndim > 1 and not is_computed_buffer(n)}
    refuse_quantised(dtypes, whole, "the checkpoint")
    matrices = {name: bool(tensor.any()) for name, tensor in floats.items() if tensor.ndim > 1}
    by_part: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in floats.items():
        by_part[files.get(name, "")].append(tensor)
    chosen = {part: [t for t in all_ if t.ndim > 1] or all_ for part, all_ in by_part.items()}
    return Sketch(
        parts={part: _kept(tensors) for part, tensors in sorted(chosen.items())},
        non_finite=why_non_finite(found) if found else "",
        zeros=tuple(name for name, any_is_not in matrices.items() if not any_is_not),
        alive=tuple(name for name, any_is_not in matrices.items() if any_is_not),
    )


def _kept(tensors: Iterable[Tensor]) -> Float[np.ndarray, " element"]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    stride = _stride(sum(len(one) for one in flat))
    kept, start = [], 0
    for one in flat:
        kept.append(one[start::stride].float().numpy())
        start = (start - len(one)) % stride
    return np.concatenate(kept)


def _stride(count: int) -> int:
    """How many elements to go on by: a number that shares no factor with a matrix's width, so that
    not always the same columns are kept."""
    stride = -(-count // _LENGTH)
    while stride > 1 and math.gcd(stride, 2 * 3 * 5 * 7) > 1:
        stride += 1
    return max(stride, 1)


def _packed(sketch: Sketch) -> bytes:
    stream = io.BytesIO()
    names = {**vars(sketch), "parts": list(sketch.parts)}
    arrays = {str(index): part for index, part in enumerate(sketch.parts.values())}
    np.savez(stream, names=np.frombuffer(json.dumps(names).encode(), np.uint8), **arrays)  # pyright: ignore
    return stream.getvalue()


def _unpacked(content: bytes) -> Sketch:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        names = json.loads(arrays["names"].tobytes())
        parts = {name: arrays[str(index)] for index, name in enumerate(names.pop("parts"))}
    others: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in names.items()}
    return Sketch(parts, **others)
