"""Character tables of the literature, traces of matrices, and least-squares fits."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.engine.record import Record
from pipeline.inputs.operations import permutations_of
from pipeline.measures.base import Setting
from pipeline.measures.modular.characters import character, characters, label, partitions
from pipeline.measures.permutation_characters import PermutationCharacters
from pipeline.models.facts import facts_of
from tests.pipeline.measures.measuring import of_record
from tests.pipeline.modular_organisms import config, measured, random_model, record, table_input

MEASURE = PermutationCharacters()


def test_characters_are_those_of_the_published_tables():
    # Rows: representations 4, 3+1, 2+2, 2+1+1, 1+1+1+1; columns: cycle types in that order, too.
    table = [[1, 1, 1, 1, 1], [-1, 0, -1, 1, 3], [0, -1, 2, 0, 2], [1, 0, -1, -1, 3],
             [-1, 1, 1, -1, 1]]  # fmt: skip
    shapes = list(partitions(4))
    assert [label(one) for one in shapes] == ["4", "3+1", "2+2", "2+1+1", "1+1+1+1"]
    assert [[character(r, c) for c in shapes] for r in shapes] == table
    identity = (1,) * 5
    assert [character(r, identity) for r in partitions(5)] == [1, 4, 5, 6, 5, 4, 1]
    assert character((3, 1, 1), (5,)) == 1 and character((3, 2), (2, 2, 1)) == 1


@pytest.mark.parametrize("n", [3, 4, 5])
def test_characters_are_orthogonal_and_the_second_is_the_trace_less_one(n):
    every = permutations_of(n)
    found = characters(every)
    np.testing.assert_allclose(found @ found.T, len(every) * np.eye(len(found)), atol=1e-9)
    fixed = (every == np.arange(n)).sum(axis=1)
    np.testing.assert_array_equal(found[1], fixed - 1)
    signs = [np.linalg.det(np.eye(n)[one]) for one in every]
    np.testing.assert_allclose(found[-1], signs)


def ratios(n: int) -> np.ndarray:
    """Return the number of a b c^-1 by lists, as an array [pair, c]."""
    every = list(itertools.permutations(range(n)))
    number = {one: i for i, one in enumerate(every)}
    found = [
        [number[tuple(a[b[c.index(x)]] for x in range(n))] for c in every]
        for a in every for b in every
    ]  # fmt: skip
    return np.array(found)


def test_coefficients_and_shares_follow_from_a_least_squares_fit():
    n, p = 3, 6
    model, table = random_model(p), table_input(p, "compose")
    logits = record(model, table).logits[-1][:, :p].numpy()
    waves = characters(permutations_of(n))[:, ratios(n)].reshape(3, -1).T
    alpha = np.linalg.lstsq(waves, logits.ravel(), rcond=None)[0]
    found = measured(MEASURE, model, table)
    np.testing.assert_allclose(found["coefficient"], alpha, rtol=1e-9)
    explained = [(alpha[i] * waves[:, i]).var() / logits.var() for i in (1, 2)]
    np.testing.assert_allclose(found["variance_explained"][1:], explained, rtol=1e-9)
    assert np.isnan(found["variance_explained"][0])


def test_logits_made_of_characters_are_explained():
    n, p = 4, 24
    chi = characters(permutations_of(n))[:, ratios(n)]
    logits = np.concatenate([7 + 2 * chi[1] - chi[4], np.ones((p * p, 1))], axis=1)
    table = table_input(p, "compose")
    assert (logits[:, :p].argmax(axis=1) == table.arrays["labels"]).all()
    found = of_record(MEASURE, Record(table, logits={-1: torch.tensor(logits)}))
    np.testing.assert_allclose(found["coefficient"], [7, 2, 0, 0, -1], atol=1e-12)
    # Characters have mean square 1: 4 and 1 of 5.
    np.testing.assert_allclose(found["variance_explained"][1:], [0.8, 0, 0, 0.2], atol=1e-12)


def test_other_operations_are_undefined():
    setting = Setting(facts_of(config(7)), table_input(7))
    assert "no composition of permutations" in MEASURE.why_undefined(setting)
    found = measured(MEASURE, random_model(7), table_input(7))
    assert all(np.isnan(value).all() for value in found.values())
    assert MEASURE.coordinates(setting)["irreducible"].tolist() == ["undefined"]
    labels = MEASURE.coordinates(Setting(facts_of(config(6)), table_input(6, "compose")))
    assert labels["irreducible"].tolist() == ["3", "2+1", "1+1+1"]
