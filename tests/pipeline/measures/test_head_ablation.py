"""Ablation against a model whose head has no output weights, and on a known induction head."""

import numpy as np
import pytest
import torch

from pipeline.config import RepeatedInput
from pipeline.errors import InputError
from pipeline.forward import run
from pipeline.inputs import make_input
from pipeline.measures.base import Setting
from pipeline.measures.head_ablation import HeadAblation
from pipeline.models.loading import Resident
from pipeline.models.organism import OrganismConfig, OrganismForCausalLM


@pytest.fixture(scope="module")
def resident() -> Resident:
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32, num_attention_heads=4)
    made = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    made.swap({name: w + 0.2 * torch.randn_like(w) for name, w in state.items()})
    return made


def measured(measure, resident):
    made = make_input("repeated", RepeatedInput(block_length=8, sequences=6), "", resident.facts)
    setting = Setting(resident.facts, made)
    measure.check(setting)
    passes = measure.passes(setting)
    records = tuple(run(resident, made, wanted) for wanted in passes)
    return measure.compute(records, resident.weights, None), made, passes


def losses(model, tokens):
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        log_p = model(ids).logits.log_softmax(-1)[:, :-1]
    return -log_p.gather(-1, ids[:, 1:, None])[..., 0].double().numpy()


def test_effects_are_those_of_removing_the_heads_output_weights(resident):
    measure = HeadAblation(early_token=2, late_token=12)
    found, made, passes = measured(measure, resident)
    assert len(passes) == 9
    plain = OrganismForCausalLM(resident.module.config).eval()
    for layer, head in ((0, 1), (1, 3)):
        state = {name: w.clone() for name, w in resident.weights.items()}
        plain.load_state_dict(state)
        before = losses(plain, made.tokens)
        part = slice(8 * head, 8 * head + 8)
        state[f"model.layers.{layer}.self_attn.o_proj.weight"][:, part] = 0
        plain.load_state_dict(state)
        change = losses(plain, made.tokens) - before
        expected = {
            "loss": change.mean(),
            "repeated_loss": change[:, 8:].mean(),
            "in_context_score": (change[:, 11] - change[:, 1]).mean(),
        }
        for name, value in expected.items():
            assert found[name][layer, head] == pytest.approx(value, abs=1e-5), name


def test_only_named_heads_are_ablated_and_paid_for(resident):
    found, _, passes = measured(HeadAblation(heads=((1, 2),)), resident)
    assert len(passes) == 2
    assert np.isfinite(found["loss"]).sum() == 1 and np.isfinite(found["loss"][1, 2])
    assert np.isnan(found["in_context_score"]).all()  # 16 tokens reach no token 500


def test_an_induction_head_lowers_the_repeated_loss_and_its_opposite_raises_it(hand_built):
    found, _, _ = measured(HeadAblation(), hand_built)
    assert found["repeated_loss"][1, 0] > 0.5 > -0.5 > found["repeated_loss"][1, 1]
    # Without the previous-token head both lose their pattern, and cancel as before.
    assert abs(found["repeated_loss"][0, 0]) < 1e-3


def test_heads_that_do_not_exist_are_refused(resident):
    with pytest.raises(InputError, match=r"no head \[2, 0\].*2 layers of 4 heads"):
        measured(HeadAblation(heads=((2, 0),)), resident)
