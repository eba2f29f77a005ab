"""Shares from a least-squares fit on the block's waves, ranks from the singular values."""

import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.engine.record import Record
from pipeline.measures.key_frequencies import KeyFrequencies
from pipeline.measures.neuron_clusters import NeuronClusters
from tests.pipeline.measures.measuring import of_record
from tests.pipeline.modular_organisms import (
    adding_model,
    measured,
    random_model,
    record,
    table_input,
    weights,
)

MEASURE = NeuronClusters()


def block(p: int, k: int) -> np.ndarray:
    a, b = (grid.ravel() for grid in np.mgrid[:p, :p])
    angle_a, angle_b = 2 * pi * k * a / p, 2 * pi * k * b / p
    one = np.ones(p * p)
    waves = [u * v for u in (one, cos(angle_a), sin(angle_a))
             for v in (one, cos(angle_b), sin(angle_b))]  # fmt: skip
    return np.stack(waves, axis=1)


def shares(neurons: np.ndarray, p: int) -> np.ndarray:
    centred = neurons - neurons.mean(axis=0)
    fits = []
    for k in range(1, p // 2 + 1):
        fit = block(p, k) @ np.linalg.lstsq(block(p, k), centred, rcond=None)[0]
        fits.append((fit**2).sum(axis=0) / (centred**2).sum(axis=0))
    return np.stack(fits)


@pytest.mark.parametrize("p", [11, 10])
def test_best_frequency_and_its_share_follow_the_formula(p):
    model, table = random_model(p), table_input(p)
    neurons = record(model, table).neurons.numpy()
    alive = neurons.std(axis=0) > 0
    found = measured(MEASURE, model, table)
    assert not alive.all()
    assert np.isnan(found["variance_share"][~alive]).all()
    expected = shares(neurons[:, alive], p)
    np.testing.assert_allclose(found["variance_share"][alive], expected.max(axis=0), rtol=1e-9)
    # A neuron that is on for a single pair has the same share at every frequency: the lowest.
    tied = expected >= expected.max(axis=0) * (1 - 1e-9)
    np.testing.assert_array_equal(found["best_frequency"][alive], tied.argmax(axis=0) + 1)
    assert (found["cluster_size"] == 0).all()
    assert np.isnan(found["cluster_rank"]).all()


def computed(neurons: np.ndarray, p: int) -> dict:
    table = table_input(p)
    made = Record(table, logits={-1: torch.zeros(p * p, p + 1)}, neurons=torch.tensor(neurons))
    return of_record(MEASURE, made)


def test_planted_clusters_are_found_the_highest_frequency_included():
    p, rng = 11, np.random.default_rng(0)
    planted = [block(p, 5) @ rng.normal(size=(9, 12)), block(p, 2) @ rng.normal(size=(9, 4))]
    noise = rng.normal(size=(p * p, 3))
    found = computed(np.concatenate([*planted, noise, np.ones((p * p, 1))], axis=1), p)
    np.testing.assert_array_equal(found["cluster_size"], [0, 4, 0, 0, 12])
    np.testing.assert_allclose(found["variance_share"][:16], 1, rtol=1e-12)
    assert np.isnan(found["variance_share"][-1])
    assert np.isnan(found["best_frequency"][-1])
    np.testing.assert_allclose(found["cluster_top_nine"][[1, 4]], 1, rtol=1e-12)
    assert np.isnan(found["cluster_top_nine"][0])


def test_rank_counts_the_singular_values_that_hold_the_share():
    p, rng = 11, np.random.default_rng(1)
    neurons = block(p, 3) @ rng.normal(size=(9, 15)) + 0.05 * rng.normal(size=(p * p, 15))
    squared = np.linalg.svd(neurons, compute_uv=False) ** 2
    found = computed(neurons, p)
    held = squared.cumsum() / squared.sum()
    assert found["cluster_size"][2] == 15
    assert found["cluster_rank"][2] == (held < 0.95).sum() + 1
    assert found["cluster_top_nine"][2] == pytest.approx(held[8], rel=1e-9)


def test_key_frequencies_by_each_rule():
    p = 13
    model, table = adding_model(p, [3, 6]), table_input(p)
    x = np.arange(p)
    wave = torch.tensor(cos(2 * pi * 4 * x / p))
    model.model.embed_tokens.weight[:p] = 0
    model.model.embed_tokens.weight[:p, 0] = wave
    model.model.embed_tokens.weight[:p, 1] = 0.24 * torch.tensor(sin(2 * pi * 6 * x / p))
    model.model.embed_tokens.weight[:p, 2] = 0.26 * torch.tensor(sin(2 * pi * 5 * x / p))
    made = record(model, table)
    neurons = torch.tensor(block(p, 2)[:, [1, 4]] + 2)
    made = Record(table, logits=made.logits, neurons=neurons)
    found = of_record(KeyFrequencies(), made, weights(model))
    assert list(np.flatnonzero(found["by_neuron_logit"]) + 1) == [3, 6]
    assert list(np.flatnonzero(found["by_embedding"]) + 1) == [4, 5]
    assert list(np.flatnonzero(found["by_clusters"]) + 1) == [2]
    W_L = (model.lm_head.weight[:p] @ model.model.layers[0].mlp.down_proj.weight).numpy()
    norms = [
        np.sqrt(sum(((np.sqrt(2 / p) * f(2 * pi * k * x / p) @ W_L) ** 2).sum()
                    for f in (cos, sin)))
        for k in range(1, 7)
    ]  # fmt: skip
    np.testing.assert_allclose(found["neuron_logit_norm"], norms, rtol=1e-9, atol=1e-13)


def test_of_frequencies_with_equal_shares_the_lowest_is_the_best():
    p, rng = 11, np.random.default_rng(2)
    single = np.zeros((p * p, 20))
    single[rng.permutation(p * p)[:20], range(20)] = rng.uniform(0.1, 9, 20)
    equal = block(p, 4)[:, 1] + block(p, 2)[:, 3]  # cosines of b and of a, one of each frequency
    found = computed(np.concatenate([single, equal[:, None]], axis=1), p)
    np.testing.assert_array_equal(found["best_frequency"], [1] * 20 + [2])
    # Along an axis the constant has 1 / p of a single pair's square, and two waves have 2 / p: a
    # block has (1 / p + 2 / p)^2 - 1 / p^2 = 8 / 121 of it, of 120 / 121 that vary.
    np.testing.assert_allclose(found["variance_share"][:20], 8 / 120, rtol=1e-9)
    assert found["variance_share"][20] == pytest.approx(0.5)


def test_a_neuron_that_is_not_finite_leaves_no_cluster_known():
    p, rng = 11, np.random.default_rng(0)
    neurons = np.concatenate([block(p, 5) @ rng.normal(size=(9, 3)), np.ones((p * p, 1))], axis=1)
    sound = computed(neurons, p)
    np.testing.assert_array_equal(sound["cluster_size"], [0, 0, 0, 0, 3])  # the constant one aside
    neurons[7, 1] = np.nan
    found = computed(neurons, p)
    for name in ("cluster_size", "cluster_rank", "cluster_top_nine"):
        assert np.isnan(found[name]).all(), name
    for name in ("best_frequency", "variance_share"):
        np.testing.assert_array_equal(np.isnan(found[name]), [False, True, False, True])
        np.testing.assert_allclose(found[name][[0, 2]], sound[name][[0, 2]])


def test_key_frequencies_are_undefined_for_other_operations():
    p = 11
    model, rules = random_model(p), ("by_neuron_logit", "by_embedding", "by_clusters")
    table = table_input(p, "x2_y2")
    found = measured(KeyFrequencies(), model, table)
    assert all(np.isnan(found[rule]).all() for rule in rules)
    assert np.isfinite(found["neuron_logit_norm"]).all()
    table = table_input(p)
    made = record(model, table)
    model.model.embed_tokens.weight[3, 1] = np.nan  # the record is of the sound model
    found = of_record(KeyFrequencies(), made, weights(model))
    assert np.isnan(found["by_embedding"]).all()
    assert np.isin(found["by_neuron_logit"], [0, 1]).all()
    assert np.isin(found["by_clusters"], [0, 1]).all()
