"""Characters of the symmetric groups, by the rule of Murnaghan and Nakayama."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

Partition = tuple[int, ...]


def partitions(n: int, largest: int | None = None) -> Iterator[Partition]:
    """Yield the partitions of n, parts in descending order; the trivial representation's first."""
    if n == 0:
        yield ()
    for part in range(min(n, largest or n), 0, -1):
        for rest in partitions(n - part, part):
            yield (part, *rest)


def label(partition: Partition) -> str:
    """Return the name of an irreducible representation, such as "3+1"."""
    return "+".join(map(str, partition))


@lru_cache(maxsize=4096)
def character(partition: Partition, cycles: Partition) -> int:
    """Return the character of the representation `partition` at permutations of a cycle type.

    By the beta-numbers (first-column hook lengths): a rim hook of length r is removed by lowering
    a number by r to one that is not there, with the sign of the numbers that it passes.
    James & Kerber 1981, The Representation Theory of the Symmetric Group, 2.4.7.
    """
    if not cycles:
        return 1
    length, rest = cycles[0], cycles[1:]
    beta = [part + len(partition) - 1 - i for i, part in enumerate(partition)]
    total = 0
    for number in beta:
        lowered = number - length
        if lowered < 0 or lowered in beta:
            continue
        passed = sum(lowered < other < number for other in beta)
        left = sorted([*(other for other in beta if other != number), lowered], reverse=True)
        smaller = tuple(one - (len(left) - 1 - i) for i, one in enumerate(left))
        total += (-1) ** passed * character(tuple(filter(None, smaller)), rest)
    return total


def cycle_type(permutation: Int[np.ndarray, " n"]) -> Partition:
    """Return the lengths of a permutation's cycles, in descending order."""
    left, lengths = set(range(len(permutation))), []
    while left:
        start = place = left.pop()
        length = 1
        while (place := int(permutation[place])) != start:
            left.remove(place)
            length += 1
        lengths.append(length)
    return tuple(sorted(lengths, reverse=True))


def characters(
    permutations: Int[np.ndarray, "permutation n"],
) -> Float[np.ndarray, "irreducible permutation"]:
    """Return all irreducible characters at each permutation, in the order of `partitions`."""
    types = [cycle_type(one) for one in permutations]
    shapes = partitions(permutations.shape[1])
    return np.array([[character(shape, one) for one in types] for shape in shapes], dtype=float)
