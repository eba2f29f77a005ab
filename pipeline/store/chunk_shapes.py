"""The shapes of chunks and shards of arrays along the steps, and the parts that are written."""

from collections.abc import Iterator
from math import prod

# In numbers, not bytes. A chunk is the least that is read for the trajectory of one head or token:
# of this size, its request takes about as long as its transfer. A shard is one object; a slab is
# held in memory at a time.
_CHUNK, _SHARD, _SLAB = 2**17, 2**24, 2**25
_STEPS = 1024  # the most steps in one shard
# The steps in one shard of a variable of more bytes than that in a row, such as the losses. New
# checkpoints are added to the last shard only: publishing one writes so many of them at most.
_LARGE, _STEPS_LARGE = 2**16, 128


def blocks(shape: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a chunk and of a shard of an array of trajectories."""
    large = prod(shape[1:]) * itemsize > _LARGE
    # Fixed for large variables, so that a shard which is full stays as it is when steps are added.
    steps = _STEPS_LARGE if large else min(max(shape[0], 1), _STEPS)
    chunk = _block((steps, *shape[1:]), _CHUNK)
    whole = zip(_block((steps, *shape[1:]), _SHARD), chunk, strict=True)
    return chunk, tuple(-(-most // size) * size for most, size in whole)


def shards(shape: tuple[int, ...], itemsize: int) -> int:
    """Return how many objects an array of trajectories consists of, beside its metadata."""
    shard = blocks(shape, itemsize)[1]
    return prod(-(-size // most) for size, most in zip(shape, shard, strict=True))


def slabs(
    shape: tuple[int, ...], shard: tuple[int, ...], first: int
) -> Iterator[tuple[slice, ...]]:
    """Yield the parts of an array, from the row `first`, that are held in memory one by one."""
    if not prod(shape):
        return
    steps = shard[0]
    for start in range(first, shape[0], steps):
        rows = slice(start, min(start + steps, shape[0]))
        if len(shape) == 1:
            yield (rows,)
            continue
        width = max(_SLAB // (steps * prod(shape[2:])) // shard[1], 1) * shard[1]
        for left in range(0, shape[1], width):
            part = slice(left, min(left + width, shape[1]))
            yield (rows, part, *(slice(None),) * (len(shape) - 2))


def _block(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Return the block of at most `most` numbers that cuts the leading dimensions, steps last.

    Steps are limited to `_STEPS` only; the other dimensions are cut to powers of two, beginning
    with the first, so that chunks fit into shards.
    """
    block = [max(size, 1) for size in shape]
    for axis in range(1, len(block)):
        if prod(block) > most:
            fitting = max(most * block[axis] // prod(block), 1)
            block[axis] = 2 ** (fitting.bit_length() - 1)  # the largest power of two that fits
    return tuple(block)
