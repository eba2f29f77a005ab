"""Ablations against models that are changed by hand, and on a known induction pair."""

import numpy as np
import pytest
import torch

from pipeline.engine.record import Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.head_ablation import HeadAblation
from pipeline.measures.mean_ablation import MeanAblation
from pipeline.measures.pattern_preserving_ablation import PatternPreservingAblation
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.ablating import blocks, of_repeats, random_resident, without
from tests.pipeline.measures.measuring import measured


@pytest.fixture(scope="module")
def resident() -> Resident:
    return random_resident()


def test_effects_are_those_of_removing_the_heads_output_weights(resident):
    made = blocks(resident)
    found = measured(HeadAblation(early_token=2, late_token=12), resident, made)
    for layer, head in ((0, 1), (1, 3)):
        change = without(resident, made, (layer, head))
        expected = {
            "loss": change.mean(),
            "repeated_loss": of_repeats(change, made),
            "in_context_score": (change[:, 11] - change[:, 1]).mean(),
        }
        for name, value in expected.items():
            assert found[name][layer, head] == pytest.approx(value, abs=1e-5), name
    assert np.isnan(found["together_loss"])


def test_only_named_heads_are_ablated_one_by_one_and_together(resident):
    made, measure = blocks(resident), HeadAblation(heads=((0, 1), (1, 2)))
    assert len(measure.passes(Setting(resident.facts, made))) == 4
    found = measured(measure, resident, made)
    assert np.isfinite(found["loss"]).sum() == 2 and np.isfinite(found["loss"][1, 2])
    assert np.isnan(found["in_context_score"]).all()  # 16 tokens reach no token 500, and it is said
    said = apply.why_undefined(measure, Setting(resident.facts, made))
    assert said.startswith("in_context_score: NaN") and "50 and 500" in said and "16 tokens" in said
    assert "together" not in said
    change = without(resident, made, (0, 1), (1, 2))
    assert found["together_loss"] == pytest.approx(change.mean(), abs=1e-5)
    assert found["together_repeated_loss"] == pytest.approx(of_repeats(change, made), abs=1e-5)


def test_the_mean_of_a_head_that_says_the_same_everywhere_is_no_loss(resident):
    """A bias on its values, and values of nothing else: its output is that bias at every token."""
    config = OrganismConfig(hidden_size=32, num_attention_heads=4, attention_bias=True)
    biased = Resident(config)
    state = {**OrganismForCausalLM(config).state_dict(), **resident.weights}
    values = "model.layers.0.self_attn.v_proj"
    state[f"{values}.weight"] = state[f"{values}.weight"].clone()
    state[f"{values}.weight"][8:16] = 0
    state[f"{values}.bias"] = torch.linspace(-1, 1, 32)
    biased.swap(state)
    made = blocks(biased)
    mean, zero = (measured(kind(), biased, made) for kind in (MeanAblation, HeadAblation))
    assert abs(mean["loss"][0, 1]) < 1e-6 < 1e-3 < abs(zero["loss"][0, 1])
    assert (np.abs(mean["loss"][0, [0, 2, 3]]) > 1e-4).all()


def test_induction_lowers_the_repeated_loss_and_its_opposite_raises_it(hand_built):
    for kind in (HeadAblation, MeanAblation, PatternPreservingAblation):
        found = measured(kind(), hand_built, blocks(hand_built))["repeated_loss"]
        assert found[1, 0] > 0.5 > -0.5 > found[1, 1]


def test_only_frozen_attention_spares_the_induction_pair(
    hand_built,
):
    """The two of layer 1 cancel in the logits, so the second of them is taken out of the way."""
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    state["model.layers.1.self_attn.o_proj.weight"][:, 40:] = 0
    hand_built.swap(state)
    made = blocks(hand_built)
    free = measured(HeadAblation(heads=((0, 0),)), hand_built, made)["repeated_loss"]
    held = measured(PatternPreservingAblation(heads=((0, 0),)), hand_built, made)["repeated_loss"]
    assert free[0, 0] > 0.5
    assert held[0, 0] == pytest.approx(0, abs=1e-6)


def test_heads_that_do_not_exist_are_refused(resident):
    with pytest.raises(InputError, match=r"no head \[2, 0\].*2 layers of 4 heads"):
        measured(HeadAblation(heads=((2, 0),)), resident, blocks(resident))


@pytest.mark.parametrize("kind", [HeadAblation, MeanAblation, PatternPreservingAblation])
@pytest.mark.parametrize(
    "tokens", [{"late_token": 17}, {"early_token": 2, "late_token": 16}, {"early_token": 60}]
)
def test_tokens_that_the_input_does_not_reach_are_refused(resident, kind, tokens):
    with pytest.raises(InputError, match=rf"{kind.name}.*have 16 tokens \(0 to 15\)"):
        kind(**tokens).check(Setting(resident.facts, blocks(resident)))
    kind(early_token=2, late_token=15).check(Setting(resident.facts, blocks(resident)))


def test_the_papers_tokens_are_compared_where_the_sequences_reach_them(resident):
    long = Input("text", "text", np.random.default_rng(0).integers(0, 64, (2, 501)))
    assert apply.why_undefined(HeadAblation(), Setting(resident.facts, long)) == (
        "repeated_loss: NaN, because input 'text' has no repeated random tokens; "
        "together_loss, together_repeated_loss: NaN, because `heads` is not given"
    )
    record = Record(long, loss=torch.arange(1000.0).view(2, 500))
    values = HeadAblation()._losses(record)
    assert values["in_context_score"] == 499 - 49 and values["loss"] == 499.5


def test_padding_is_left_out_by_its_place_and_nan_of_the_model_is_not():
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    made = Input("text", "text", np.zeros((2, 4), np.int64), {"attention_mask": mask})
    loss = torch.tensor([[1.0, 2.0, 6.0], [4.0, torch.nan, torch.nan]])
    measure = HeadAblation(early_token=1, late_token=2)
    found = measure._losses(Record(made, loss=loss))
    assert found["loss"] == (1 + 2 + 6 + 4) / 4
    assert found["in_context_score"] == 2 - (1 + 4) / 2
    loss[0, 0] = torch.nan
    found = measure._losses(Record(made, loss=loss))
    assert np.isnan(found["loss"]) and np.isnan(found["in_context_score"])
