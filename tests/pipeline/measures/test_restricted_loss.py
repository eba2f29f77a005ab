"""Every variant from explicit directions over all pairs, in plain numpy."""

import numpy as np
import pytest
from numpy import cos, pi, sin

from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.restricted_loss import RestrictedLoss
from pipeline.models.facts import facts_of
from tests.pipeline.modular_organisms import (
    adding_model,
    config,
    context,
    loss,
    measured,
    random_model,
    record,
    table_input,
)

MEASURE = RestrictedLoss()
KEYS = {"neuron_logit": [2, 5], "embedding": [1], "clusters": [3, 4, 5]}


def on_waves(x: np.ndarray, table: Input, keys: list[int]) -> np.ndarray:
    """Return the projection of each column of x [pair, n] on cos(w_k s) and sin(w_k s)."""
    p, a, b = table.attributes["p"], table.tokens[:, 0], table.tokens[:, 1]
    s = a - b if table.attributes["operation"] == "subtract" else a + b
    kept = np.zeros_like(x)
    for k in keys:
        for wave in (cos(2 * pi * k * s / p), sin(2 * pi * k * s / p)):
            kept += np.outer(wave, wave @ x) / (wave @ wave)
    return kept


@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_all_variants_follow_the_formulas(operation):
    p = 11
    model, table = random_model(p), table_input(p, operation)
    answers, train = table.arrays["labels"], table.arrays["is_train"]
    made = record(model, table)
    logits, neurons = made.logits[-1][:, :p].numpy(), made.neurons.numpy()
    W_L = (model.lm_head.weight[:p] @ model.model.layers[0].mlp.down_proj.weight).numpy().T
    mean, waves = logits.mean(axis=0), on_waves(logits, table, KEYS["neuron_logit"])
    from_neurons = on_waves(neurons, table, KEYS["neuron_logit"]) @ W_L
    expected = {
        "train": loss(waves + mean, answers)[train],
        "test": loss(waves + mean, answers)[~train],
        "all_without_mean": loss(waves, answers),
        "train_without_mean": loss(waves, answers)[train],
        "test_without_mean": loss(waves, answers)[~train],
        "neurons_test": loss(from_neurons + mean, answers)[~train],
        "all_embedding_keys": loss(on_waves(logits, table, [1]) + mean, answers),
        "all_cluster_keys": loss(on_waves(logits, table, [3, 4, 5]) + mean, answers),
    }
    found = measured(MEASURE, model, table, KEYS)
    assert set(found) == set(expected) == {v.name for v in MEASURE.variables}
    for name, losses in expected.items():
        assert found[name] == pytest.approx(losses.mean(), rel=1e-9), name


def test_the_exact_adder_loses_nothing_in_any_variant():
    p = 13
    model, table = adding_model(p, [3, 5]), table_input(p)
    found = measured(MEASURE, model, table)
    losses = loss(record(model, table).logits[-1][:, :p].numpy(), table.arrays["labels"])
    train = table.arrays["is_train"]
    assert found["train"] == pytest.approx(losses[train].mean(), rel=1e-9)
    for name in ("test", "test_without_mean", "neurons_test"):
        assert found[name] == pytest.approx(losses[~train].mean(), rel=1e-9), name


def test_the_path_around_the_mlp_is_cut_at_the_neurons_only():
    p = 11
    model, table = random_model(p), table_input(p)
    before = measured(MEASURE, model, table, KEYS)
    model.model.layers[0].mlp.down_proj.weight.mul_(0)
    after = measured(MEASURE, model, table, KEYS)
    made = record(model, table)
    mean = made.logits[-1][:, :p].numpy().mean(axis=0, keepdims=True).repeat(p * p, axis=0)
    only_mean = loss(mean, table.arrays["labels"])[~table.arrays["is_train"]].mean()
    assert after["neurons_test"] == pytest.approx(only_mean, rel=1e-12)
    assert after["test"] != pytest.approx(only_mean, rel=1e-6)
    assert before["neurons_test"] != pytest.approx(after["neurons_test"], rel=1e-3)


def test_the_reference_holds_the_keys_of_every_rule():
    p = 13
    model, table = adding_model(p, [3, 5]), table_input(p)
    found = MEASURE.reference(context(model, table))
    assert set(found) == {"neuron_logit", "embedding", "clusters"}
    assert found["neuron_logit"] == [3, 5]


def test_other_operations_are_undefined():
    found = measured(MEASURE, random_model(11), table_input(11, "x2_y2"), KEYS)
    assert all(np.isnan(value) for value in found.values())


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 2}, {"smeared_keys": True}])
def test_models_whose_neurons_are_not_recorded_are_refused(changes):
    with pytest.raises(InputError, match="one-layer organism without smeared keys"):
        apply.check(MEASURE, Setting(facts_of(config(11, **changes)), table_input(11)))
