import random

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import modular

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
    assert BY_HAND.keys() == modular.OPERATIONS.keys()


@pytest.mark.parametrize("p", [3, 4, 13])
@pytest.mark.parametrize("operation", modular.OPERATIONS)
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
