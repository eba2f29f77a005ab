"""Each measure rebuilt from its formula, and a network that is known by construction."""

import numpy as np
import pytest
import torch
from numpy import cos, pi, sin

from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.modular_addition import ModularAddition
from pipeline.models.facts import facts_of
from tests.pipeline.modular_organisms import (
    adding_model,
    amplitude,
    config,
    context,
    loss,
    measured,
    random_model,
    record,
    table_input,
)

MEASURE = ModularAddition()


def from_the_formulas(logits: np.ndarray, table: Input, keys: list[int]) -> dict[str, float]:
    """Compute the measures from explicit directions over all pairs."""
    p, train, labels = table.attributes["p"], table.arrays["is_train"], table.arrays["labels"]
    a, b = table.tokens[:, 0], table.tokens[:, 1]
    s = a - b if table.attributes["operation"] == "subtract" else a + b
    kept = np.zeros_like(logits)
    for k in keys:
        for direction in (cos(2 * pi * k * s / p), sin(2 * pi * k * s / p)):
            if np.abs(direction).max() < 1e-9:
                continue
            direction = direction / np.sqrt((direction**2).sum())
            for c in range(p):
                kept[:, c] += direction * (direction @ logits[:, c])
    fits = np.stack(
        [cos(2 * pi * k * (s[:, None] - np.arange(p)) / p).ravel() for k in keys], axis=1
    )
    centred = logits.ravel() - logits.mean()
    alpha, *_ = np.linalg.lstsq(fits, centred, rcond=None)
    residual = ((centred - fits @ alpha) ** 2).sum()
    return {
        "train_loss": loss(logits, labels)[train].mean(),
        "test_loss": loss(logits, labels)[~train].mean(),
        "restricted_loss": loss(kept + logits.mean(axis=0), labels).mean(),
        "excluded_loss": loss(logits - kept, labels)[train].mean(),
        "logit_variance_explained": 1 - residual / (centred**2).sum(),
    }


@pytest.mark.parametrize(("p", "operation"), [(11, "add"), (11, "subtract"), (10, "add")])
def test_losses_and_explained_variance_follow_the_formulas(p, operation):
    model, table = random_model(p), table_input(p, operation)
    keys = [1, 3, p // 2]
    found = measured(MEASURE, model, table, {"key_frequencies": keys})
    logits = record(model, table).logits[-1][:, :p].numpy()
    for name, value in from_the_formulas(logits, table, keys).items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
        assert found[name].dtype == np.float64


def test_sparsity_and_embedding_norms_follow_the_formulas():
    p = 11
    model, table = random_model(p), table_input(p)
    found = measured(MEASURE, model, table)
    W_E = model.model.embed_tokens.weight.detach().numpy()[:p]
    W_out = model.model.layers[0].mlp.down_proj.weight.detach().numpy().T
    W_L = W_out @ model.lm_head.weight.detach().numpy().T[:, :p]
    x = np.arange(p)
    waves = [np.sqrt(2 / p) * f(2 * pi * k * x / p) for k in range(1, 6) for f in (cos, sin)]
    for name, matrix in (("gini_embedding", W_E), ("gini_neuron_logit", W_L.T)):
        norms = np.array([np.sqrt(((wave @ matrix) ** 2).sum()) for wave in waves])
        gini = np.abs(norms[:, None] - norms).sum() / (2 * len(norms) * norms.sum())
        assert found[name] == pytest.approx(gini, rel=1e-9)
    norms = [np.hypot(*(np.linalg.norm(wave @ W_E) for wave in waves[i : i + 2])) for i in
             range(0, 10, 2)]  # fmt: skip
    np.testing.assert_allclose(found["embedding_norm"], norms, rtol=1e-9)


def test_the_exact_adder_keeps_its_whole_loss_and_variance():
    p, keys = 13, [2, 5]
    table = table_input(p)
    model = adding_model(p, keys)
    a, b = table.tokens[:, 0], table.tokens[:, 1]
    c = np.arange(p)
    exact = sum(amplitude(k, p) * cos(2 * pi * k / p * ((a + b)[:, None] - c)) for k in keys)
    logits = record(model, table).logits[-1][:, :p].numpy()
    np.testing.assert_allclose(logits, exact, atol=1e-10)

    found = measured(MEASURE, model, table)
    full = loss(logits, table.arrays["labels"]).mean()
    assert found["restricted_loss"] == pytest.approx(full, rel=1e-9)
    assert found["logit_variance_explained"] == pytest.approx(1, abs=1e-12)
    assert found["excluded_loss"] == pytest.approx(np.log(p), rel=1e-9)


@pytest.mark.parametrize(("p", "planted"), [(13, [2, 5]), (13, [6]), (13, [1, 6]), (12, [6])])
def test_planted_frequencies_are_found_the_highest_included(p, planted):
    model, table = adding_model(p, planted), table_input(p)
    assert MEASURE.reference(context(model, table)) == {"key_frequencies": planted}


def test_the_equals_sign_never_counts():
    p = 11
    model, table = random_model(p), table_input(p)
    before = measured(MEASURE, model, table, {"key_frequencies": [2]})
    with torch.no_grad():
        model.lm_head.weight[p] += 100.0
    after = measured(MEASURE, model, table, {"key_frequencies": [2]})
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_other_operations_have_losses_but_no_waves_in_the_answer():
    found = measured(MEASURE, random_model(11), table_input(11, "x2_xy_y2"))
    for name in ("restricted_loss", "excluded_loss", "logit_variance_explained"):
        assert np.isnan(found[name])
    assert np.isfinite(found["test_loss"])
    assert np.isfinite(found["gini_embedding"])


def test_a_vocabulary_that_does_not_fit_p_is_refused():
    with pytest.raises(InputError, match=r"12 ids, expected p \+ 1 = 14"):
        apply.check(MEASURE, Setting(facts_of(config(11)), table_input(13)))


def test_a_model_without_an_mlp_is_refused():
    with pytest.raises(InputError, match="needs an MLP"):
        apply.check(MEASURE, Setting(facts_of(config(11, intermediate_size=0)), table_input(11)))


def test_declared_arrays_are_the_computed_ones():
    p = 11
    table, model = table_input(p), random_model(p)
    setting = Setting(facts_of(config(p)), table)
    apply.check(MEASURE, setting)
    coordinates = apply.coordinates(MEASURE, setting)
    found = measured(MEASURE, model, table)
    assert list(coordinates["frequency"]) == [1, 2, 3, 4, 5]
    assert {v.name for v in MEASURE.variables} == set(found)
    for variable in MEASURE.variables:
        assert found[variable.name].shape == tuple(len(coordinates[d]) for d in variable.dims[1:])
