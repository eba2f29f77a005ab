import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs.repeats import (
    block_lengths,
    repeated_blocks,
    repeated_substrings,
    with_shuffled_repeats,
)


def longest_repeat(row: list[int]) -> int:
    """Return the length of the longest substring that occurs twice without overlap."""
    best, n = 0, len(row)
    for i in range(n):
        for j in range(i + 1, n):
            length = 0
            while j + length < n and i + length < j and row[i + length] == row[j + length]:
                length += 1
            best = max(best, length)
    return best


def test_each_sequence_repeats_one_substring_of_an_allowed_length():
    # with a million ids chance repeats do not occur, so the longest repeat is the planted one
    rows = repeated_substrings(300, 10**6, 64, 8, 31, np.random.default_rng(0))
    assert rows.shape == (300, 64) and rows.dtype == np.int64
    lengths = [longest_repeat(row) for row in rows.tolist()]
    assert all(64 - len(set(row)) == n for row, n in zip(rows.tolist(), lengths, strict=True))
    assert set(lengths) == set(range(8, 32))


def test_copies_start_at_every_place_where_they_fit():
    rows = repeated_substrings(2000, 10**6, 10, 3, 3, np.random.default_rng(0)).tolist()
    places = set()
    for row in rows:
        first = next(i for i, token in enumerate(row) if token in row[i + 1 :])
        places.add((first, row.index(row[first], first + 1)))
    assert places == {(i, j) for i in range(5) for j in range(i + 3, 8)}


def test_tokens_are_uniform_over_the_vocabulary():
    rows = repeated_substrings(3000, 5, 12, 2, 6, np.random.default_rng(0))
    assert np.allclose(np.bincount(rows.ravel(), minlength=5) / rows.size, 0.2, atol=0.01)


def test_the_generator_decides_the_sequences():
    first, again, other = (
        repeated_substrings(4, 9, 20, 3, 5, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(("shortest", "longest"), [(0, 3), (4, 3), (3, 6), (11, 12)])
def test_substrings_that_do_not_fit_twice_are_refused(shortest, longest):
    with pytest.raises(InputError, match="longest <= 5"):
        repeated_substrings(1, 9, 11, shortest, longest, np.random.default_rng(0))


def same(count: int, length: int) -> np.ndarray:
    return block_lengths(count, length, vary=False)


@pytest.mark.parametrize("bos", [None, 3])
@pytest.mark.parametrize("repeats", [2, 4])
def test_a_block_of_different_ids_is_repeated(bos, repeats):
    vocabulary = np.arange(2, 40)
    rows = repeated_blocks(same(20, 25), vocabulary, repeats, bos, seed=0)
    assert rows.dtype == np.int64 and rows.shape == (20, 25 * repeats + (bos is not None))
    for row in rows.tolist():
        if bos is not None:
            assert row.pop(0) == bos and bos not in row
        assert len(set(row)) == 25 and set(row) <= set(vocabulary.tolist())
        assert row == row[:25] * repeats


@pytest.mark.parametrize(
    ("count", "longest", "expected"),
    [(3, 25, {25, 19, 13}), (32, 25, set(range(13, 26))), (1, 9, {9}), (8, 2, {2}), (8, 3, {2, 3})],
)
def test_lengths_spread_from_over_half_to_the_longest(count, longest, expected):
    lengths = block_lengths(count, longest, vary=True)
    assert set(lengths.tolist()) == expected and len(lengths) == count
    counts = np.bincount(lengths)[sorted(expected)]
    assert counts.max() - counts.min() <= 1
    assert set(block_lengths(count, longest, vary=False).tolist()) == {longest}


@pytest.mark.parametrize("bos", [None, 3])
def test_shorter_blocks_go_on_to_the_width_of_the_longest(bos):
    lengths = block_lengths(9, 8, vary=True)
    rows = repeated_blocks(lengths, np.arange(9), 2, bos, seed=0)
    assert rows.shape == (9, 16 + (bos is not None))
    for row, n in zip(rows.tolist(), lengths.tolist(), strict=True):
        row = row[bos is not None :]
        assert len(set(row)) == n and all(row[i] == row[i % n] for i in range(16))


def test_every_sequence_and_every_seed_has_its_own_block():
    lengths = same(50, 10)
    rows = repeated_blocks(lengths, np.arange(64), 2, None, seed=0)
    assert len({tuple(row) for row in rows.tolist()}) == 50
    assert set(rows.ravel().tolist()) == set(range(64))
    assert np.array_equal(rows, repeated_blocks(lengths, np.arange(64), 2, None, seed=0))
    assert not np.array_equal(rows, repeated_blocks(lengths, np.arange(64), 2, None, seed=1))


def test_a_block_longer_than_the_vocabulary_is_refused():
    assert repeated_blocks(same(1, 8), np.arange(8), 2, None, seed=0).shape == (1, 16)
    with pytest.raises(InputError, match=r"block_length = 8.*only 7 can be drawn"):
        repeated_blocks(same(1, 8), np.arange(8), 2, 0, seed=0)


@pytest.mark.parametrize("bos", [None, 3])
def test_shuffled_repeats_keep_the_first_block_and_the_tokens(bos):
    start, lengths = bos is not None, same(50, 25)
    tokens = repeated_blocks(lengths, np.arange(40), 3, bos, seed=0)
    found = with_shuffled_repeats(tokens, lengths, bos, seed=0)
    assert (found[:, : start + 25] == tokens[:, : start + 25]).all()
    blocks, before = (of[:, start:].reshape(50, 3, 25) for of in (found, tokens))
    assert (np.sort(blocks, axis=2) == np.sort(before, axis=2)).all()
    in_place = (blocks[:, 1:] == before[:, 1:]).mean()
    assert in_place == pytest.approx(1 / 25, abs=0.02)
    assert (blocks[:, 1] != blocks[:, 2]).any(axis=1).all()


def test_shuffled_blocks_of_different_lengths_each_hold_their_block():
    lengths = block_lengths(12, 12, vary=True)
    tokens = repeated_blocks(lengths, np.arange(40), 2, 3, seed=0)
    found = with_shuffled_repeats(tokens, lengths, 3, seed=0)
    assert found.shape == tokens.shape
    for row, n in zip(found[:, 1:].tolist(), lengths.tolist(), strict=True):
        assert sorted(row[:n]) == sorted(row[n : 2 * n]) and len(set(row)) == n
