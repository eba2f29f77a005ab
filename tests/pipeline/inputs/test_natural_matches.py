"""Natural repeats and their corrupted sources, checked by searching the tokens alone."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs.natural_matches import latest_match, natural_matches

SIX_KINDS = np.random.default_rng(0).integers(6, size=(8, 40))


def ends_before(row: list[int], at: int, length: int) -> list[int]:
    """Return where the last `length` tokens up to `at` ended before."""
    string = row[at - length + 1 : at + 1]
    return [
        j for j in range(length - 1, at) if at >= length and row[j - length + 1 : j + 1] == string
    ]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_latest_match_is_the_last_one_that_a_search_finds(length):
    real = np.ones(SIX_KINDS.shape, dtype=bool)
    found = latest_match(SIX_KINDS, length, real)
    for row, own in zip(SIX_KINDS.tolist(), found, strict=True):
        for i, j in enumerate(own):
            # The token after an occurrence that ends just before is the query itself.
            expected = [at for at in ends_before(row, i, length) if at < i - 1]
            assert j == max(expected, default=-1)
    assert (found >= 0).any()


def test_a_run_of_one_token_matches_two_back():
    found = latest_match(np.array([[7, 7, 7, 7, 3]]), 1, np.ones((1, 5), dtype=bool))
    np.testing.assert_array_equal(found, [[-1, -1, 0, 1, -1]])


def test_padding_matches_nothing():
    tokens = np.array([[0, 0, 0, 4, 5, 0, 4, 5]])
    real = tokens > 0
    real[0, 5] = True
    found = latest_match(tokens, 1, real)
    np.testing.assert_array_equal(found, [[-1, -1, -1, -1, -1, -1, 3, 4]])
    found = latest_match(np.array([[0, 4, 5, 0, 4]]), 2, np.array([[False, *[True] * 4]]))
    np.testing.assert_array_equal(found, [[-1] * 5])


def repeating() -> np.ndarray:
    """Return sequences of random tokens in which a few strings come twice or more."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(3000, size=(200, 60))
    for row in tokens[:150]:
        n = rng.integers(4, 9)
        start = rng.integers(0, 20)
        for at in rng.integers(30, 52, size=rng.integers(1, 3)):
            row[at : at + n] = row[start : start + n]
    return tokens


def test_each_probe_has_one_source_with_the_same_next_token():
    made = natural_matches(repeating(), 4, seed=0)
    assert 20 < len(made.clean) < 150
    for row, i, j in zip(made.clean.tolist(), made.probe, made.source, strict=True):
        assert ends_before(row, i, 4) == [j] and j <= i - 4 and row[i + 1] == row[j + 1]


def test_all_sequences_with_a_probe_are_kept():
    tokens = repeating()
    kept = {tuple(row) for row in natural_matches(tokens, 4, seed=0).clean.tolist()}
    for row in tokens.tolist():
        single = [(i, ends_before(row, i, 4)) for i in range(59)]
        probes = [i for i, of in single if len(of) == 1 and of[0] <= i - 4
                  and row[i + 1] == row[of[0] + 1]]  # fmt: skip
        assert bool(probes) == (tuple(row) in kept)


def test_corruption_replaces_exactly_the_named_tokens_of_the_source():
    made = natural_matches(repeating(), 4, seed=0)
    place = np.arange(60) - made.source[:, None]
    np.testing.assert_array_equal(made.earlier != made.clean, (place >= -3) & (place < 0))
    np.testing.assert_array_equal(made.last != made.clean, place == 0)
    for clean, earlier, last, end in zip(
        made.clean, made.earlier, made.last, made.source, strict=True
    ):
        new = {*earlier[end - 3 : end], last[end]}
        assert not new & set(clean[end - 3 : end + 2])


def test_texts_without_a_probe_or_other_tokens_are_refused():
    with pytest.raises(InputError, match="repeats 4 tokens"):
        natural_matches(np.arange(40).reshape(2, 20), 4, seed=0)
    with pytest.raises(InputError, match="every token of the text"):
        natural_matches(np.array([[0, 1, 2, 0, 1, 2]]), 2, seed=0)


def test_bos_is_no_part_of_a_string():
    # BOS is also the end of a text, as in OPT: (0, 5, 6) -> 7 occurs twice, once with BOS itself.
    tokens = np.array([[0, 5, 6, 7, 8, 0, 5, 6, 7, 9]])
    assert natural_matches(tokens, 3, seed=0).source.tolist() == [2]
    with pytest.raises(InputError, match="none of 1 sequences"):
        natural_matches(tokens, 3, seed=0, n_special=1)
