"""The strongest composition partners of heads, above the mean of random matrices."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.report.site.composition.data import Composition, Matrix

MOST_EDGES = 60
MOST_PARTNERS = 4  # of a head, in each direction and by each path
Pair = tuple[int, int, str, float]


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
        """Return how far the pair is above the mean of random matrices."""
        return self.value - self.random


@dataclass(frozen=True)
class Partners:
    """The strongest pairs of a head above the mean of random ones, and how many are above it."""

    reads: list[Partner]
    read_by: list[Partner]
    count_reads: int
    count_read_by: int


def partners(found: Composition) -> dict[str, Partners]:
    """Return the partners of each head at the last step, by its name."""
    values, random = found.at(-1)
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
    """Return path and place of the highest positive numbers of each path, the highest first."""
    highest = np.argsort(-above, axis=1, kind="stable")[:, :MOST_PARTNERS].tolist()
    places = [(path, other) for path, of in enumerate(highest) for other in of]
    known = [place for place in places if above[place] > 0]
    return sorted(known, key=lambda place: -above[place])


def strongest(values: dict[str, Matrix], random: dict[str, Matrix]) -> Iterator[Pair]:
    """Yield the pairs that are farthest above random ones: reader, read, path, value."""
    paths = list(values)
    above = np.stack([np.nan_to_num(values[p] - random[p], nan=-1.0) for p in paths])
    for flat in np.argsort(-above, axis=None, kind="stable")[:MOST_EDGES].tolist():
        p, i, j = (int(one) for one in np.unravel_index(flat, above.shape))
        if above[p, i, j] > 0:
            yield i, j, paths[p], float(values[paths[p]][i, j])
