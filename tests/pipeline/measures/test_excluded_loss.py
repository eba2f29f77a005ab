"""Each frequency removed from the logits of each train pair separately, in plain numpy."""

import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.engine.record import Record
from pipeline.inputs import Input
from pipeline.measures.excluded_loss import ExcludedLoss, train_losses_without
from pipeline.measures.modular import fourier
from pipeline.measures.modular.pairs import PairTable
from tests.pipeline.modular_organisms import loss, measured, random_model, record, table_input

MEASURE = ExcludedLoss()
KEYS = {"neuron_logit": [2], "embedding": [1, 4], "clusters": [3, 4, 5]}


def without(logits: np.ndarray, table: Input, keys: list[int]) -> float:
    p, a, b = table.attributes["p"], table.tokens[:, 0], table.tokens[:, 1]
    s = a - b if table.attributes["operation"] == "subtract" else a + b
    left = logits.copy()
    for k in keys:
        for wave in (cos(2 * pi * k * s / p), sin(2 * pi * k * s / p)):
            if np.abs(wave).max() > 1e-9:
                left -= np.outer(wave, wave @ logits) / (wave @ wave)
    return loss(left, table.arrays["labels"])[table.arrays["is_train"]].mean()


@pytest.mark.parametrize(("p", "operation"), [(11, "add"), (11, "subtract"), (10, "add")])
def test_all_variants_follow_the_formulas(p, operation):
    model, table = random_model(p), table_input(p, operation)
    logits = record(model, table).logits[-1][:, :p].numpy()
    found = measured(MEASURE, model, table, KEYS)
    each = [without(logits, table, [k]) for k in range(1, p // 2 + 1)]
    np.testing.assert_allclose(found["by_frequency"], each, rtol=1e-9)
    assert found["largest"] == pytest.approx(max(each), rel=1e-9)
    assert found["embedding_keys"] == pytest.approx(without(logits, table, [1, 4]), rel=1e-9)
    assert found["cluster_keys"] == pytest.approx(without(logits, table, [3, 4, 5]), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0, 3e4])
def test_tiny_losses_and_logits_beyond_the_range_of_exp_stay_exact(scale):
    p = 7
    table = table_input(p)
    noise = np.random.default_rng(0).normal(size=(p * p, p))
    right = np.eye(p)[table.arrays["labels"]]
    logits = scale * (right + 0.1 * noise)
    found = PairTable(Record(table, logits={-1: torch.tensor(logits)}))
    waves = torch.stack([fourier.projected(found.by_answer, [k]) for k in (1, 2, 3)])
    expected = [without(logits, table, [k]) for k in (1, 2, 3)]
    np.testing.assert_allclose(train_losses_without(found, waves), expected, rtol=1e-9, atol=1e-300)


def test_an_answer_without_a_train_pair_is_no_obstacle():
    p = 7
    table = table_input(p)
    table.arrays["is_train"][:] = False
    table.arrays["is_train"][[3, 12, 30]] = True
    model = random_model(p)
    logits = record(model, table).logits[-1][:, :p].numpy()
    found = measured(MEASURE, model, table, KEYS | {"embedding": [1], "clusters": [2]})
    each = [without(logits, table, [k]) for k in (1, 2, 3)]
    np.testing.assert_allclose(found["by_frequency"], each, rtol=1e-9)


def test_other_operations_are_undefined():
    found = measured(MEASURE, random_model(11), table_input(11, "x3_xy"), KEYS)
    assert found["by_frequency"].shape == (5,)
    assert all(np.isnan(value).all() for value in found.values())
