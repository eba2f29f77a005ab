import random

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import modular, operations

BY_HAND = {
    "add": lambda a, b, p: (a + b) % p,
    "subtract": lambda a, b, p: (a - b) % p,
    "multiply": lambda a, b, p: (a * b) % p,
    "x2_y2": lambda a, b, p: (a * a + b * b) % p,
    "x2_xy_y2": lambda a, b, p: (a * a + a * b + b * b) % p,
    "x2_xy_y2_x": lambda a, b, p: (a * a + a * b + b * b + a) % p,
    "x3_xy": lambda a, b, p: (a * a * a + a * b) % p,
    "x3_xy2_y": lambda a, b, p: (a * a * a + a * b * b + b) % p,
}


def test_every_operation_is_checked_here():
    assert BY_HAND.keys() == operations.POLYNOMIALS.keys()


@pytest.mark.parametrize("p", [3, 4, 13])
@pytest.mark.parametrize("operation", BY_HAND)
def test_the_table_is_that_of_two_loops(operation, p):
    rows = [(a, b, p) for a in range(p) for b in range(p)]
    tokens, labels = modular.table(p, operation)
    assert tokens.dtype == labels.dtype == np.int64
    assert tokens.tolist() == [list(row) for row in rows]
    assert labels.tolist() == [BY_HAND[operation](a, b, p) for a, b, _ in rows]


def test_large_moduli_do_not_overflow():
    _, labels = modular.table(997, "x3_xy2_y")
    assert labels[-1] == (996**3 + 996**3 + 996) % 997


def test_the_split_has_the_stated_size_and_depends_on_the_seed_alone():
    split = modular.split(59, 0.4, 0)
    assert split.shape == (59 * 59,) and split.sum() == int(0.4 * 59 * 59)
    assert np.array_equal(split, modular.split(59, 0.4, 0))
    assert not np.array_equal(split, modular.split(59, 0.4, 1))


def test_the_random_split_is_that_of_the_published_grokking_code():
    p, share, seed = 11, 0.3, 7
    pairs = [(i, j, p) for i in range(p) for j in range(p)]
    random.seed(seed)
    random.shuffle(pairs)
    train = set(pairs[: int(share * p * p)])
    tokens, _ = modular.table(p, "add")
    is_train = modular.split(p, share, seed, generator="random")
    assert {tuple(row) for row in tokens[is_train].tolist()} == train


def test_splitting_leaves_the_global_generators_alone():
    random.seed(3), np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3), np.random.seed(3)
    modular.split(7, 0.5, 0), modular.split(7, 0.5, 0, generator="random")
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize("p", [2, 0, -5])
def test_a_modulus_below_three_is_refused(p):
    with pytest.raises(InputError, match=f"p = {p}.*at least 3"):
        modular.table(p, "add")


def test_an_unknown_operation_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'subtract'"):
        modular.table(5, "substract")


@pytest.mark.parametrize("share", [0.0, 1.0, 1e-9, -1, 2])
def test_a_split_with_an_empty_part_is_refused(share):
    with pytest.raises(InputError, match="train_share"):
        modular.split(5, share, 0)


@pytest.mark.parametrize("operation", BY_HAND)
def test_orbits_are_those_of_the_eight_maps_by_hand(operation):
    p, answer = 7, BY_HAND[operation]
    every = [(a, b) for a in range(p) for b in range(p)]
    maps = [
        lambda a, b, s=s, t=t, swap=swap: ((s * b) % p, (t * a) % p) if swap else (
            (s * a) % p, (t * b) % p)
        for swap in (False, True) for s in (1, -1) for t in (1, -1)
    ]  # fmt: skip
    kept = [m for m in maps if all(answer(*m(a, b), p) == answer(a, b, p) for a, b in every)]
    same = modular.orbits(p, operation).reshape(p, p)
    for a, b in every:
        orbit = {m(a, b) for m in kept}
        assert {(x, y) for x, y in every if same[x, y] == same[a, b]} == orbit
    assert len(kept) == {"x2_y2": 8, "multiply": 4, "x2_xy_y2": 4, "x2_xy_y2_x": 1,
                         "x3_xy": 1, "x3_xy2_y": 1}.get(operation, 2)  # fmt: skip


@pytest.mark.parametrize("operation", ["add", "x2_y2", "multiply"])
def test_a_split_by_orbits_divides_none(operation):
    p, share = 13, 0.4
    same = modular.orbits(p, operation)
    is_train = modular.split(p, share, 3, "orbits", operation)
    assert not np.intersect1d(same[is_train], same[~is_train]).size
    assert int(share * p * p) <= is_train.sum() < int(share * p * p) + 8
    again = modular.split(p, share, 3, "orbits", operation)
    other = modular.split(p, share, 4, "orbits", operation)
    assert np.array_equal(again, is_train) and not np.array_equal(other, is_train)


def test_a_split_by_orbits_leaves_one_to_test():
    with pytest.raises(InputError, match="leave no whole orbit to test"):
        modular.split(3, 0.999, 0, "orbits", "x2_y2")
