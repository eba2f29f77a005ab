"""Random walks in many dimensions, seen on their own principal components.

A random walk is smooth and bent on its first components (of many dimensions: cosines), whatever its
moves are, so that walks to compare a trajectory with are projected as the trajectory was.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from pipeline.aggregate.two_lines import Walks

# Of walks. Where step lengths are alike, sharp corners are most frequent at about 50 to 100.
DIMENSIONS = (2, 5, 10, 20, 50, 100, 300, 1000)
_FRESH = (3, 15, 75)  # dimensions of the walks that count false alarms
_AT_ONCE = 2**21  # coordinates of moves that are held at a time: 16 MB
Moves = Float[np.ndarray, "walk move component"]


@dataclass(frozen=True)
class Nulls:
    """Walks on their components. random and fresh: by number of dimensions."""

    random: list[Walks]
    flipped: Walks
    fresh: list[Walks]

    def within(self, part: slice) -> "Nulls":
        """Return a window of all walks."""
        random, fresh = ([one[:, part] for one in walks] for walks in (self.random, self.fresh))
        return Nulls(random, self.flipped[:, part], fresh)


def draw_nulls(
    scores: Float[np.ndarray, "checkpoint kept"],
    lengths: Float[np.ndarray, " move"],
    components: int,
    rng: np.random.Generator,
    count: int,
) -> Nulls:
    """Return walks to compare a trajectory with, so many of each kind, on their first components.

    scores: of the trajectory, on all components that are kept: flipped displacements are of these.
    lengths: of its displacements over all tokens.
    """
    random, fresh = (
        [projected_walks(lengths, one, components, rng, count) for one in dimensions]
        for dimensions in (DIMENSIONS, _FRESH)
    )
    return Nulls(random, flipped_walks(scores, components, rng, count), fresh)


def projected_walks(
    lengths: Float[np.ndarray, " move"],
    dimensions: int,
    components: int,
    rng: np.random.Generator,
    count: int,
) -> Walks:
    """Return walks of moves of these lengths in random directions, on their first components.

    A few walks at a time: only their first components are held, not all their dimensions.
    """
    parts = _random_moves(lengths, dimensions, rng, count)
    return np.concatenate([on_components(summed(moves), components) for moves in parts])


def _random_moves(
    lengths: Float[np.ndarray, " move"], dimensions: int, rng: np.random.Generator, count: int
) -> Iterator[Moves]:
    """Yield moves with the products of moves in so many dimensions, of some walks at a time.

    There are at most as many columns as moves: in more dimensions, Gaussian vectors are turned to
    a triangular matrix (Bartlett's decomposition), which has the same products.
    """
    shape = len(lengths), min(dimensions, len(lengths))
    at_once = max(_AT_ONCE // (shape[0] * shape[1]), 1)
    parts = [slice(i, min(i + at_once, count)) for i in range(0, count, at_once)]
    normal, triangular = rng, dimensions > len(lengths)
    i, diagonals = np.arange(len(lengths)), np.ones((count, len(lengths)))
    if triangular:
        # The diagonals of all walks are drawn after all other numbers: those are drawn twice, from
        # two generators in the same state, so that no more than a part of them is held.
        normal = deepcopy(rng)
        for part in parts:
            rng.standard_normal((part.stop - part.start, *shape))
        diagonals = np.sqrt(rng.chisquare(dimensions - i, (count, len(lengths))))
    for part in parts:
        moves = normal.standard_normal((part.stop - part.start, *shape))
        if triangular:
            moves = np.tril(moves, -1)
            moves[:, i, i] = diagonals[part]
        yield moves * (lengths / np.linalg.norm(moves, axis=2))[:, :, None]


def flipped_walks(
    points: Float[np.ndarray, "checkpoint kept"],
    components: int,
    rng: np.random.Generator,
    count: int,
) -> Walks:
    """Return walks of a trajectory's moves, each forwards or backwards, on their components."""
    moves = np.diff(points, axis=0)
    signs = rng.choice([-1.0, 1.0], (count, len(moves), 1))
    return on_components(summed(moves * signs), components)


def summed(moves: Moves) -> Walks:
    """Return the walks from 0 that these moves make."""
    return np.pad(moves.cumsum(axis=1), ((0, 0), (1, 0), (0, 0)))


def on_components(walks: Walks, components: int) -> Float[np.ndarray, "walk checkpoint score"]:
    """Return the scores of each walk on its own first principal components over checkpoints."""
    centred = walks - walks.mean(axis=1, keepdims=True)
    length, size = walks.shape[1:]
    if size <= length // 2:
        vectors = np.linalg.eigh(centred.transpose(0, 2, 1) @ centred)[1]
        return centred @ vectors[:, :, ::-1][:, :, :components]
    span = [length - components, length - 1]
    found = [scipy.linalg.eigh(one @ one.T, subset_by_index=span) for one in centred]
    return np.stack([(vectors * np.sqrt(sizes.clip(min=0)))[:, ::-1] for sizes, vectors in found])
