"""Least-squares fits on the nine terms of each neuron, and neurons that are made of them."""

import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.engine.record import Record
from pipeline.measures.nine_terms import NineTerms
from pipeline.models.organism import OrganismForCausalLM
from tests.pipeline.measures.measuring import of_record
from tests.pipeline.measures.test_neuron_clusters import block, shares
from tests.pipeline.modular_organisms import (
    config,
    loss,
    measured,
    random_model,
    record,
    table_input,
    weights,
)

MEASURE = NineTerms()


def fitted(waves: np.ndarray, values: np.ndarray) -> np.ndarray:
    return waves @ np.linalg.lstsq(waves, values, rcond=None)[0]


@torch.no_grad()
def neuron_logit(model: OrganismForCausalLM, p: int) -> np.ndarray:
    return (model.lm_head.weight[:p] @ model.model.layers[0].mlp.down_proj.weight).T.numpy()


@torch.no_grad()
def acting(W_L: np.ndarray) -> OrganismForCausalLM:
    """Return a model with this W_L."""
    n, p = W_L.shape
    model = OrganismForCausalLM(config(p, intermediate_size=n, hidden_size=p + p % 2)).double()
    model.model.layers[0].mlp.down_proj.weight[:p] = torch.tensor(W_L.T)
    model.lm_head.weight.zero_()
    model.lm_head.weight[:p, :p] = torch.eye(p)
    return model.eval().requires_grad_(False)


def computed(neurons: np.ndarray, W_L: np.ndarray, around: np.ndarray, measure=MEASURE) -> dict:
    p = W_L.shape[1]
    logits = np.concatenate([around + neurons @ W_L, np.zeros((p * p, 1))], axis=1)
    made = Record(table_input(p), logits={-1: torch.tensor(logits)}, neurons=torch.tensor(neurons))
    return of_record(measure, made, weights(acting(W_L)))


@pytest.mark.parametrize("p", [11, 10])
def test_losses_follow_from_least_squares_fits(p):
    model, table = random_model(p), table_input(p)
    made = record(model, table)
    neurons, logits = made.neurons.numpy(), made.logits[-1][:, :p].numpy()
    W_L, c = neuron_logit(model, p), np.arange(p)
    nine, two = neurons.copy(), W_L.copy()
    for n in np.flatnonzero(neurons.std(axis=0) > 0):
        of_n = shares(neurons[:, [n]], p)[:, 0]
        k = int((of_n >= of_n.max() * (1 - 1e-9)).argmax()) + 1
        nine[:, n] = fitted(block(p, k), neurons[:, n])
        output = np.stack([cos(2 * pi * k * c / p), sin(2 * pi * k * c / p)], axis=1)
        two[n] = fitted(output, W_L[n])
    labels, is_test = table.arrays["labels"], ~table.arrays["is_train"]
    found = measured(MEASURE, model, table)
    around = logits - neurons @ W_L
    for name, expected in {
        "unchanged": logits,
        "": around + nine @ W_L,
        "two_directions": around + nine @ two,
        "clusters": around + neurons.mean(axis=0) @ W_L,  # no neuron has 0.85 at one frequency
    }.items():
        of_pairs = loss(expected, labels)
        prefix = f"{name}_".lstrip("_")
        assert found[f"{prefix}all"] == pytest.approx(of_pairs.mean(), rel=1e-9), name
        assert found[f"{prefix}test"] == pytest.approx(of_pairs[is_test].mean(), rel=1e-9), name
    assert found["all"] != pytest.approx(found["unchanged_all"], rel=1e-6)


def planted(p: int = 11) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return neurons of frequencies 2 and 5, W_L in the waves of these, and other logits."""
    rng, c = np.random.default_rng(0), np.arange(p)
    neurons, W_L = [], []
    for k in (2, 5):
        neurons.append(block(p, k) @ rng.normal(size=(9, 4)))
        W_L.append(rng.normal(size=(4, 2)) @ [cos(2 * pi * k * c / p), sin(2 * pi * k * c / p)])
    around = rng.normal(size=(p * p, p))
    return np.concatenate(neurons, axis=1), np.concatenate(W_L), around


def test_nothing_is_lost_of_neurons_and_outputs_of_one_frequency():
    found = computed(*planted())
    for split in ("all", "test"):
        for name in ("", "two_directions_", "clusters_"):
            assert found[f"{name}{split}"] == pytest.approx(found[f"unchanged_{split}"], rel=1e-9)
        assert found[f"other_frequency_{split}"] != pytest.approx(found[split], rel=0.01)


def test_only_means_are_left_at_another_frequency():
    p = 11
    neurons, W_L, around = planted(p)
    a, b = (grid.ravel() for grid in np.mgrid[:p, :p])
    neurons = np.stack([3 + cos(2 * pi * k * a / p) * sin(2 * pi * k * b / p)
                        for k in (2, 2, 2, 2, 5, 5, 5, 5)], axis=1)  # fmt: skip
    expected = loss(around + 3 * W_L.sum(axis=0), table_input(p).arrays["labels"]).mean()
    for seed in range(3):
        found = computed(neurons, W_L, around, NineTerms(null_seed=seed))
        assert found["other_frequency_all"] == pytest.approx(expected, rel=1e-9)


def test_neurons_without_a_cluster_have_their_mean():
    p = 11
    neurons, W_L, around = planted(p)
    rng = np.random.default_rng(1)
    noise, weight = rng.normal(size=(p * p, 2)), rng.normal(size=(3, p))
    extra = np.concatenate([noise, np.full((p * p, 1), 2.0)], axis=1)  # the last is constant
    found = computed(np.concatenate([neurons, extra], 1), np.concatenate([W_L, weight]), around)
    labels = table_input(p).arrays["labels"]
    clusters = around + neurons @ W_L + noise.mean(axis=0) @ weight[:2] + 2 * weight[2]
    assert found["clusters_all"] == pytest.approx(loss(clusters, labels).mean(), rel=1e-9)
    whole = around + neurons @ W_L + extra @ weight
    assert found["unchanged_all"] == pytest.approx(loss(whole, labels).mean(), rel=1e-9)
    assert found["all"] != pytest.approx(found["unchanged_all"], rel=1e-3)


def test_a_final_norm_or_a_neuron_that_is_not_finite_leaves_nan():
    p = 11
    model = OrganismForCausalLM(config(p, layer_norm=True)).double().eval().requires_grad_(False)
    assert all(np.isnan(value) for value in measured(MEASURE, model, table_input(p)).values())
    neurons, W_L, around = planted(p)
    logits = np.concatenate([around, np.zeros((p * p, 1))], axis=1)
    neurons[3, 1] = np.nan
    made = Record(table_input(p), logits={-1: torch.tensor(logits)}, neurons=torch.tensor(neurons))
    found = of_record(MEASURE, made, weights(acting(W_L)))
    finite = {name for name, value in found.items() if np.isfinite(value)}
    assert finite == {"unchanged_all", "unchanged_test"}
