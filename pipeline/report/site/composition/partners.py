"""The strongest composition partners of heads, above random matrices of the same shape."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.report.site.composition.data import Composition, Matrix

MOST_EDGES = 60
MOST_PARTNERS = 8  # of a head, in each direction
Pair = tuple[int, int, str, float, float]


@dataclass(frozen=True)
class Partner:
    """A pair of heads: how much the later one reads the earlier one by keys, queries or values."""

    reader: str
    read: str
    path: str
    value: float
    random: float

    @property
    def above(self) -> float:
        """Return how far the pair is above random matrices."""
        return self.value - self.random


@dataclass(frozen=True)
class Partners:
    """The strongest pairs of a head above random matrices, and how many are above them."""

    reads: list[Partner]
    read_by: list[Partner]
    count_reads: int
    count_read_by: int


def partners(found: Composition, index: int = -1) -> dict[str, Partners]:
    """Return the partners of each head at a step, by its name."""
    values, random = found.at(index)
    readers, read = found.readers, found.read
    above = np.stack([np.nan_to_num(values[p] - random[p], nan=-1.0) for p in found.paths])

    def pair(path: int, i: int, j: int) -> Partner:
        name = found.paths[path]
        numbers = float(values[name][i, j]), float(random[name][i, j])
        return Partner(readers[i], read[j], name, *numbers)

    made = {}
    for name in {*readers, *read}:
        reads: list[Partner] = []
        read_by: list[Partner] = []
        counts = [0, 0]
        if name in readers:
            i = readers.index(name)
            counts[0] = int((above[:, i] > 0).sum())
            reads = [pair(p, i, j) for p, j in _highest(above[:, i])]
        if name in read:
            j = read.index(name)
            counts[1] = int((above[:, :, j] > 0).sum())
            read_by = [pair(p, i, j) for p, i in _highest(above[:, :, j])]
        made[name] = Partners(reads, read_by, *counts)
    return made


def _highest(above: Float[np.ndarray, "path other"]) -> list[tuple[int, int]]:
    """Return path and place of the highest positive numbers, the highest first."""
    flat = np.argsort(-above, axis=None, kind="stable")[:MOST_PARTNERS].tolist()
    places = [divmod(one, above.shape[1]) for one in flat]
    return [place for place in places if above[place] > 0]


def strongest(values: dict[str, Matrix], random: dict[str, Matrix]) -> Iterator[Pair]:
    """Yield the pairs that are farthest above random ones: reader, read, path, value, above."""
    paths = list(values)
    above = np.stack([np.nan_to_num(values[p] - random[p], nan=-1.0) for p in paths])
    for flat in np.argsort(-above, axis=None, kind="stable")[:MOST_EDGES].tolist():
        p, i, j = (int(one) for one in np.unravel_index(flat, above.shape))
        if above[p, i, j] > 0:
            yield i, j, paths[p], float(values[paths[p]][i, j]), float(above[p, i, j])
