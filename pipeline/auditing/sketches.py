"""Sketches of checkpoints: samples of their weights, of fixed size, which are read once and cached.

The sketch of a weight file is every k-th element of its matrices, in the order of their names, with
k such that at most `_LENGTH` remain. Distances between sketches estimate those between the
matrices, up to a common factor. (Vectors are left out: gains initialised with ones and biases with
zeros make any two runs similar. A file that holds only vectors is sketched by them.)
"""

import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline.checkpoints.cache import recall, remember
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.floats import FLOATS, non_finite, refuse_quantised, why_non_finite
from pipeline.checkpoints.places import place_of
from pipeline.checkpoints.weight_files import tensors_by_part
from pipeline.models.fit import is_computed_buffer
from pipeline.models.weights import read_weights

_LENGTH = 2**16  # elements: 256 KB per file, and distances that are accurate to about a percent
_VERSION = 3  # of cached sketches; to be raised when their content changes


@dataclass(frozen=True, eq=False)
class Sketch:
    """A sample of one checkpoint's weights.

    parts: by file name ("" for the only one), the elements that are kept. non_finite: a sentence
    that names tensors with NaN or infinities and their number; "" for none. zeros, alive: the names
    of matrices that hold only zeros, and of the others.
    """

    parts: Mapping[str, Float[np.ndarray, " element"]]
    non_finite: str
    zeros: tuple[str, ...]
    alive: tuple[str, ...]


def sketch_of(checkpoint: Checkpoint, copies: Copies) -> Sketch:
    """Return the sketch of a checkpoint, from the cache if its digest is there.

    Raises CheckpointError if it cannot be read or does not match its checksum; OSError if the
    storage cannot be reached.
    """
    with copies.of(checkpoint) as copy:
        digest = copy.checkpoint.digest
        found = recall("sketches", f"{_VERSION} {digest}")
        # An entry that was damaged on disk is made again.
        with suppress(ValueError, KeyError, TypeError, EOFError, OSError, BadZipFile):
            if found is not None:
                return _unpacked(found)
        config = copy.config
        weights = copy.read(lambda parts: read_weights(parts, config))
        digest = copy.checkpoint.digest  # of the bytes that were read
        sketch = _sketch(weights, tensors_by_part(place_of(checkpoint.uri), copy.listed))
    remember("sketches", f"{_VERSION} {digest}", _packed(sketch))
    return sketch


def _sketch(weights: Mapping[str, Tensor], files: Mapping[str, str]) -> Sketch:
    floats = {name: weights[name] for name in sorted(weights) if weights[name].dtype in FLOATS}
    found = non_finite({n: t for n, t in floats.items() if not is_computed_buffer(n)})
    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    # No config is read here: every matrix must be floating point, vectors may be counters.
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
        start = (start - len(one)) % stride  # the stride continues across tensors
    return np.concatenate(kept)


def _stride(count: int) -> int:
    """Return the distance between sampled elements: a number without the prime factors 2, 3, 5 and
    7, which widths of matrices have, so that all columns are sampled."""
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
