"""Stream arrays over steps and tokens block by block, each block with all checkpoints.

Arrays of the store are read in chunks of their stored size, Dask arrays in their own chunks, on
whatever scheduler is in use. Results come in the order of the tokens, so that sums are the same
from threads and from a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import TypeVar

import numpy as np
import xarray as xr
from dask.base import compute
from dask.delayed import delayed
from jaxtyping import Bool, Float

from pipeline.errors import InputError

Block = Float[np.ndarray, "checkpoint token"]
Result = TypeVar("Result")

_READ = 2**22  # numbers that are read at a time
_AT_ONCE = 2**18  # numbers that are computed with at a time: 2 MB in float64 stay in the cache
_WAVE = 16  # blocks whose results are held before they are passed on


def over_tokens(
    function: Callable[[Block], Result], arrays: Sequence[xr.DataArray]
) -> Iterator[Result]:
    """Yield function(block) for consecutive blocks of tokens, in order.

    arrays: each over step and the same other dimensions, whose elements are "tokens". A block has
    the rows of all arrays, in order of the arrays and of their steps, in the arrays' own dtype.
    Raises InputError for arrays of different shapes beside the steps. On a cluster the function
    is pickled.
    """
    arrays = [array.transpose("step", ...) for array in arrays]
    shape = arrays[0].shape[1:]
    if not shape or any(array.shape[1:] != shape for array in arrays):
        shapes = ", ".join(str(dict(array.sizes)) for array in arrays)
        raise InputError(f"expected arrays over step and the same other dimensions, found {shapes}")
    slabs = [
        [array.isel({array.dims[1]: slice(start, stop)}) for array in arrays]
        for start, stop in pairwise(_bounds(arrays))
    ]
    if any(array.chunks is not None for array in arrays):
        task = delayed(_apply)
        for start in range(0, len(slabs), _WAVE):
            wave = slabs[start : start + _WAVE]
            yield from compute(*(task(function, [one.data for one in s]) for s in wave))
    else:
        for slab in slabs:
            yield _apply(function, [one.values for one in slab])


def over_sequences(
    function: Callable[[Float[np.ndarray, "step sequence position"]], Result], loss: xr.DataArray
) -> Iterator[Result]:
    """Yield function(block) for blocks of whole sequences of one run's losses, in order."""
    loss = loss.transpose("step", "sequence", "position")
    positions = loss.sizes["position"]
    yield from over_tokens(lambda block: function(block.reshape(len(block), -1, positions)), [loss])


def padding(block: Float[np.ndarray, "step ..."]) -> Bool[np.ndarray, "..."]:
    """Return which tokens are NaN at every step: those that the input leaves undefined."""
    return np.asarray(np.isnan(block).all(axis=0))


def in_order(array: xr.DataArray) -> xr.DataArray:
    """Return an array with ascending steps; one that has them already is not copied."""
    steps = array["step"].values
    return array if (np.diff(steps) > 0).all() else array.sortby("step")


def parts(block: Block) -> Iterator[Block]:
    """Yield a block in parts that fit into a processor's cache once they are in float64."""
    width = max(_AT_ONCE // len(block), 1)
    for start in range(0, block.shape[1], width):
        yield block[:, start : start + width]


def _apply(function: Callable[[Block], Result], arrays: Sequence[np.ndarray]) -> Result:
    rows = [array.reshape(len(array), -1) for array in arrays]
    return function(rows[0] if len(rows) == 1 else np.concatenate(rows))


def _bounds(arrays: Sequence[xr.DataArray]) -> list[int]:
    """Return where along the second dimension the blocks begin and end."""
    first, dim = arrays[0], arrays[0].dims[1]
    row = max(prod(first.shape[2:]) * sum(len(array) for array in arrays), 1)
    stored = (
        first.chunks[1][0]
        if first.chunks
        else first.encoding.get("preferred_chunks", {}).get(dim, 1)
    )
    # Whole chunks, so that none is read twice.
    size = max(_READ // row // stored, 1) * stored
    return [*range(0, first.shape[1], size), first.shape[1]]
