"""Stored attention patterns against the matrices of transformers' eager attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.engine.batches import Limits
from pipeline.engine.finite import caused_by_the_model
from pipeline.engine.forward import run
from pipeline.engine.record import Corner, Pass, Record
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.attention_patterns import AttentionPatterns
from pipeline.measures.base import Context, Setting
from pipeline.models.resident import Resident
from pipeline.models.weights import ModelWeights
from pipeline.schema import Values
from tests.pipeline.families import FAMILIES, eager_model, matrices
from tests.pipeline.measures.measuring import measured

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(3, 96, (5, 16))
TEXT = Input("text", "text", TOKENS)

# Grouped queries, softcap, window, learned sinks, and a model with its own attention code.
CHOSEN = ("organism", "llama", "gemma2", "mistral", "gpt_oss", "bloom")


def resident_of(model) -> Resident:
    resident = Resident(model.config, dtype="float64")
    resident.swap(model.state_dict())
    return resident


@pytest.mark.parametrize("family", CHOSEN)
def test_the_first_tokens_attention_is_that_of_eager_attention(family):
    model = eager_model(FAMILIES[family]())
    p, _, _ = matrices(model, torch.from_numpy(TOKENS))  # [layer, sequence, head, query, key]
    found = measured(AttentionPatterns(sequences=2, length=11), resident_of(model), TEXT)
    expected = p[:, :2, :, :11, :11].numpy().transpose(1, 0, 2, 3, 4)
    np.testing.assert_allclose(found["attention"], expected, rtol=1e-4, atol=1e-6)
    above = np.triu_indices(11, 1)
    assert (found["attention"][..., above[0], above[1]] == 0).all()


@pytest.mark.parametrize("family", ["organism", "bloom"])
def test_batches_do_not_change_what_is_recorded(family):
    """Run in batches of one sequence; `bloom` has its own attention code."""
    model = resident_of(eager_model(FAMILIES[family]()))
    wanted = Pass("text", attention=frozenset({Corner(3, 7)}))
    whole, parts = (run(model, TEXT, wanted, Limits(memory)).attention for memory in (None, 1))
    assert whole[Corner(3, 7)].shape[1] == 3
    torch.testing.assert_close(whole[Corner(3, 7)], parts[Corner(3, 7)])


def test_short_inputs_have_fewer_sequences_and_positions():
    measure, model = AttentionPatterns(), resident_of(eager_model(FAMILIES["organism"]()))
    made = Input("text", "text", TOKENS[:1])
    found = measured(measure, model, made)["attention"]
    coordinates = apply.coordinates(measure, Setting(model.facts, made))
    assert found.shape == (1, 3, 4, 16, 16)
    assert coordinates["sequence"].tolist() == [0]
    assert coordinates["query"].tolist() == coordinates["key"].tolist() == list(range(16))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_padding_has_no_pattern():
    model = eager_model(FAMILIES["llama"]())
    seen = np.ones_like(TOKENS)
    seen[0, :3] = 0
    padded = replace(TEXT, arrays={"attention_mask": seen})
    found = measured(AttentionPatterns(length=8), resident_of(model), padded)["attention"]
    assert np.isnan(found[0, :, :, :3]).all()
    assert not np.isnan(found[0, :, :, 3:]).any() and not np.isnan(found[1]).any()
    p, _, _ = matrices(model, torch.from_numpy(TOKENS[:1, 3:8]))
    expected = p[:, 0].numpy()
    np.testing.assert_allclose(found[0, :, :, 3:, 3:], expected, rtol=1e-4, atol=1e-6)


def test_nan_of_a_weight_is_told_apart_from_that_of_padding():
    resident = resident_of(eager_model(FAMILIES["llama"]()))
    state = {name: tensor.clone() for name, tensor in resident.weights.items()}
    state["model.layers.0.self_attn.o_proj.weight"][:] = torch.nan
    resident.swap(state)
    mask = np.ones_like(TOKENS)
    mask[1, 6:] = 0
    made, measure = Input("text", "text", TOKENS, {"attention_mask": mask}), AttentionPatterns()
    setting = Setting(resident.facts, made)
    records = tuple(run(resident, made, one) for one in measure.passes(setting))

    def compute(given: tuple[Record, ...], weights: ModelWeights) -> Values:
        return apply.compute(measure, Context(setting, weights, given))

    values = compute(records, resident.weights)
    wrong = caused_by_the_model(values, records, resident.weights, compute)["attention"]
    expected = np.zeros_like(wrong)  # [sequence, layer, head, query, key]
    seen = np.tril(np.ones((16, 16), dtype=bool))
    expected[0, 1:] = seen
    expected[1, 1:, :, :6] = seen[:6]
    np.testing.assert_array_equal(wrong, expected)
