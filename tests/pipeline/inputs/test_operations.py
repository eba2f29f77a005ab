import itertools

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.inputs import modular, operations


@pytest.mark.parametrize("p", [6, 24])
def test_composition_applies_the_second_permutation_first(p):
    n = {6: 3, 24: 4}[p]
    elements = list(itertools.permutations(range(n)))
    found = operations.answers(p, "compose")
    for (i, a), (j, b) in itertools.product(enumerate(elements), repeat=2):
        assert elements[found[i, j]] == tuple(a[b[x]] for x in range(n))


def test_permutations_of_five_elements_are_a_group():
    table = operations.answers(120, "compose")
    every = np.arange(120)
    assert np.array_equal(table[0], every) and np.array_equal(table[:, 0], every)
    assert (np.sort(table, axis=0) == every[:, None]).all()
    assert (np.sort(table, axis=1) == every).all()
    a, b, c = np.random.default_rng(0).integers(120, size=(3, 500))
    assert np.array_equal(table[table[a, b], c], table[a, table[b, c]])
    assert not np.array_equal(table, table.T)


@pytest.mark.parametrize("p", [5, 25, 5040])
def test_permutations_in_another_number_are_refused(p):
    with pytest.raises(InputError, match=f"p = {p}"):
        modular.table(p, "compose")


def test_random_answers_are_fixed_uniform_and_without_a_pattern():
    p = 41
    found = operations.answers(p, "random")
    assert np.array_equal(found, operations.answers(p, "random"))
    assert found.shape == (p, p) and set(found.ravel().tolist()) == set(range(p))
    # 40 degrees of freedom: mean 40, standard deviation 9.
    counts = np.bincount(found.ravel(), minlength=p)
    assert ((counts - p) ** 2 / p).sum() < 80
    wave = np.exp(2j * np.pi * found / p)
    spectrum = np.abs(np.fft.fft2(wave)) ** 2 / p**2
    assert spectrum.max() < 20  # of p^2 exponential numbers of mean 1; a wave alone has p^2


def test_a_table_is_not_the_one_that_is_kept():
    _, labels = modular.table(6, "compose")
    labels[:] = -1
    assert modular.table(6, "compose")[1].min() == 0


@pytest.mark.parametrize("p", [3, 5, 7, 41, 113])
def test_multiplication_adds_the_logarithms_of_a_prime(p):
    order = operations.elements_in_order(p, "multiply")
    assert sorted(order) == list(range(1, p))
    for (i, a), (j, b) in itertools.product(enumerate(order), repeat=2):
        assert order[(i + j) % (p - 1)] == a * b % p


def test_only_groups_of_residues_have_an_order():
    assert operations.elements_in_order(10, "add") == tuple(range(10))
    assert operations.elements_in_order(10, "subtract") == tuple(range(10))
    for p, operation in ((9, "multiply"), (15, "multiply"), (6, "compose"), (7, "x2_y2")):
        assert operations.elements_in_order(p, operation) is None
