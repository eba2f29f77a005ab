"""Probes of controlled match length, checked by searching the tokens alone."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs.matches import controlled_matches


def longest_match(row: list[int], at: int) -> tuple[int, int]:
    """Return the length of the longest earlier suffix of row[: at + 1], and its successor."""
    best = (0, -1)
    for j in range(at):
        length = 0
        while length <= j and row[j - length] == row[at - length]:
            length += 1
        best = max(best, (length, j + 1))
    return best


@pytest.mark.parametrize("bos", [None, 5])
def test_every_probe_matches_as_long_as_it_says_and_no_longer(bos):
    made = controlled_matches(40, np.arange(70), 3, 8, bos, seed=0)
    assert made.tokens.shape == (40, 3 * 9 + 3 * 10 + (bos is not None))
    for s, row in enumerate(made.tokens.tolist()):
        assert np.count_nonzero(made.length[s]) == 3
        for i in np.flatnonzero(made.length[s]):
            assert longest_match(row, i) == (made.length[s, i], made.successor[s, i])
            assert row[i + 1] == row[made.successor[s, i]]
            other = made.other[s, i]
            assert row[other] != row[i + 1] and row[other - 1] != row[i]
    if bos is not None:
        assert (made.tokens[:, 0] == 5).all() and (made.tokens[:, 1:] != 5).all()


def test_all_lengths_are_probed_equally_often():
    made = controlled_matches(32, np.arange(70), 3, 8, None, seed=1)
    np.testing.assert_array_equal(np.bincount(made.length.ravel())[1:], np.full(8, 12))


def test_a_position_without_a_probe_says_so():
    made = controlled_matches(4, np.arange(70), 3, 8, 0, seed=1)
    none = made.length == 0
    assert (made.successor[none] == -1).all() and (made.other[none] == -1).all()


def test_the_seed_decides_the_sequences():
    first, again, other = (controlled_matches(4, np.arange(70), 3, 8, 0, s) for s in (1, 1, 2))
    assert np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)


def test_a_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(InputError, match="need up to 51 ids, but only 49"):
        controlled_matches(1, np.arange(50), 3, 8, 0, seed=0)
