"""Walks have the lengths and the products that they should, and the components of an SVD."""

import numpy as np
import pytest

from pipeline.aggregate import walk_null
from pipeline.aggregate.walk_null import flipped_walks, on_components, projected_walks

LENGTHS = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 2.0, 1.5, 1.0, 4.0, 1.0, 0.7])


@pytest.mark.parametrize("dimensions", [2, 5, 8, 12, 13, 400])
def test_all_components_of_a_walk_keep_its_step_lengths(dimensions: int) -> None:
    walks = projected_walks(LENGTHS, dimensions, 12, np.random.default_rng(0), 5)
    moves = np.linalg.norm(np.diff(walks, axis=1), axis=2)
    assert moves == pytest.approx(np.broadcast_to(LENGTHS, moves.shape))


@pytest.mark.parametrize("dimensions", [3, 10, 12, 13, 40])
def test_directions_are_uniform(dimensions: int) -> None:
    walks = projected_walks(LENGTHS, dimensions, 12, np.random.default_rng(1), 3000)
    moves = np.diff(walks, axis=1) / LENGTHS[:, None]
    products = moves @ moves.transpose(0, 2, 1)
    for i, j in ((0, 1), (0, 11), (10, 11)):
        cosines = products[:, i, j]
        # The mean square of a cosine is 1 / D, and its mean fourth power 3 / D / (D + 2).
        assert abs(cosines.mean()) < 4 * np.sqrt(1 / dimensions / 3000)
        assert (cosines**2).mean() == pytest.approx(1 / dimensions, rel=0.15)


@pytest.mark.parametrize("dimensions", [3, 12, 40])
def test_walks_are_the_same_however_many_are_held(dimensions: int, monkeypatch) -> None:
    whole, after = _drawn(dimensions)
    monkeypatch.setattr(walk_null, "_AT_ONCE", 2 * len(LENGTHS) * min(dimensions, len(LENGTHS)))
    parts, after_parts = _drawn(dimensions)
    assert np.array_equal(whole, parts) and after == after_parts


def _drawn(dimensions: int) -> tuple[np.ndarray, float]:
    """Return seven walks, and the number that the generator gives next."""
    rng = np.random.default_rng(5)
    return projected_walks(LENGTHS, dimensions, 2, rng, 7), rng.random()


@pytest.mark.parametrize("dimensions", [2, 6, 7, 30])
def test_components_are_those_of_the_singular_value_decomposition(dimensions: int) -> None:
    walks = np.random.default_rng(2).standard_normal((4, 13, dimensions)).cumsum(axis=1)
    for walk, found in zip(walks, on_components(walks, 2), strict=True):
        left, sizes, _ = np.linalg.svd(walk - walk.mean(axis=0), full_matrices=False)
        expected = left[:, :2] * sizes[:2]
        signs = np.sign((expected * found).sum(axis=0))
        assert found * signs == pytest.approx(expected)


def test_flipped_walks_have_the_displacements_or_their_opposites() -> None:
    points = np.random.default_rng(3).standard_normal((20, 3)).cumsum(axis=0)
    moves = np.diff(points, axis=0)
    expected = np.abs(moves @ moves.T)
    found = np.diff(flipped_walks(points, 3, np.random.default_rng(4), 6), axis=1)
    products = found @ found.transpose(0, 2, 1)
    assert np.abs(products) == pytest.approx(np.broadcast_to(expected, products.shape))
    assert (products < -1e-9).any() and (products > 1e-9).any()
