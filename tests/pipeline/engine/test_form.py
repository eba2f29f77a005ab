"""The check of a model's form: assumptions that hold, and ones that do not, are recognised."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from pipeline.engine.agreement import close, proportional
from pipeline.engine.form import unmet_assumptions
from pipeline.engine.reduced import reduced
from pipeline.inputs import Input
from pipeline.measures import apply, registry
from pipeline.measures.base import Setting
from pipeline.measures.copying import Copying
from pipeline.measures.direct_logits import DirectLogits
from pipeline.measures.logit_lens import LogitLens
from pipeline.models.assumptions import ASSUMPTIONS
from pipeline.models.circuits import FinalNorm
from pipeline.models.families import FAMILIES
from pipeline.models.organism_config import OrganismConfig
from tests.pipeline.circuit_families import config_of, resident
from tests.pipeline.families import FAMILIES as EVERY_FAMILY
from tests.pipeline.measures.measuring import measured, of_weights

NORMED = {"olmo2", "olmo3", "gemma2", "gemma3_text"}


def opt(**changes: bool):
    config = config_of("opt")
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_described_family_has_the_form_it_is_said_to_have(family):
    expected = {"heads_apart"} if family in NORMED else set()
    assert set(unmet_assumptions(config_of(family))) == expected


@pytest.mark.parametrize("family", ["bloom", "cohere", "mpt", "falcon", "opt"])
def test_the_matrices_of_other_families_are_said_not_to_be_known(family):
    assert set(unmet_assumptions(EVERY_FAMILY[family]())) == {"matrices"}


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_organisms_of_any_depth_have_the_form(n_layers, layer_norm):
    config = OrganismConfig(
        vocab_size=20, hidden_size=16, num_attention_heads=1, num_hidden_layers=n_layers,
        intermediate_size=0, layer_norm=layer_norm, positions="queries_keys", lm_head_bias=True,
    )  # fmt: skip
    assert unmet_assumptions(config) == {}


def test_norms_that_follow_their_blocks_leave_no_sum_of_parts():
    found = unmet_assumptions(opt(do_layer_norm_before=False))
    assert set(found) == {"stream", "heads_apart"}
    assert "layer 0, 1" in found["stream"]
    assert unmet_assumptions(opt(_remove_final_layer_norm=True)) == {}


@pytest.mark.parametrize(
    ("family", "changes", "unmet"),
    [
        ("phi", {"qk_layernorm": True}, {"queries_keys"}),
        ("olmo", {"clip_qkv": 0.5}, {"queries_keys", "values_outputs"}),
        ("olmo", {"clip_qkv": 8.0}, set()),
    ],
)
def test_what_a_setting_does_to_queries_or_values_is_found(family, changes, unmet):
    config = config_of(family)
    for name, value in changes.items():
        setattr(config, name, value)
    assert set(unmet_assumptions(config)) == unmet


@pytest.mark.parametrize(
    ("family", "wrong", "unmet"),
    [
        ("gemma", {"offset": 0.0}, {"values_outputs", "queries_keys", "unembedding"}),
        ("gemma", {"embedding_scaled": False}, {"embedding"}),
        ("gpt_neox", {"fused": "side by side"}, {"queries_keys", "values_outputs"}),
        ("llama", {"norm": ""}, {"queries_keys", "values_outputs"}),
        ("llama", {"final_norm": "model.layers.0.input_layernorm"}, {"unembedding"}),
        ("qwen3", {"key_norm": "none"}, {"queries_keys"}),
        ("olmo2", {"output_norm": ""}, {"stream"}),
        ("gemma2", {"output_norm": "pre_feedforward_layernorm"}, {"values_outputs", "stream"}),
        ("gptj", {"qkv": ("attn.k_proj", "attn.q_proj", "attn.v_proj")}, set()),
        ("gptj", {"qkv": ("attn.q_proj", "attn.q_proj", "attn.v_proj")}, {"queries_keys"}),
        ("phi", {"unembedding": "model.embed_tokens"}, {"unembedding"}),
        ("gpt2", {"layer": "transformer.blocks.{}"}, {"matrices"}),
    ],
)
def test_a_wrong_description_is_caught(family, wrong, unmet, monkeypatch):
    monkeypatch.setitem(FAMILIES, family, replace(FAMILIES[family], **wrong))
    assert unmet <= set(unmet_assumptions(config_of(family)))


@pytest.mark.parametrize("wrong", [FinalNorm(True, 1e-6), FinalNorm(False, 1e-5)])
def test_a_wrong_kind_or_epsilon_of_the_final_norm_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(FinalNorm, "of", lambda config: wrong)
    assert "unembedding" in unmet_assumptions(config_of("gpt_neox"))


def test_a_family_that_is_none_of_the_described_ones_is_caught(monkeypatch):
    """Stands for code of somebody's own that calls itself a Llama."""
    from transformers.models.llama import modeling_llama

    own = modeling_llama.LlamaDecoderLayer.forward
    monkeypatch.setattr(
        modeling_llama.LlamaDecoderLayer, "forward",
        lambda self, *args, **kwargs: 0.5 * own(self, *args, **kwargs),
    )  # fmt: skip
    assert set(unmet_assumptions(config_of("llama"))) == {"stream"}


@pytest.mark.parametrize("changes", [{"do_layer_norm_before": False},
                                     {"_remove_final_layer_norm": True}, {}])  # fmt: skip
def test_the_lens_on_the_last_stream_is_the_models_own_loss(changes):
    made = resident(opt(**changes))
    tokens = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = made.module(tokens, labels=tokens, use_cache=False).loss
    input = Input("repeated", "text", tokens.numpy())
    found = measured(LogitLens(), made, input)
    assert found["loss"][-1] == pytest.approx(float(own), abs=1e-5)
    total = measured(DirectLogits(), made, input)["logit"]
    with torch.no_grad():
        logits = made.module(tokens, use_cache=False).logits[:, :-1]
    right = (logits - logits.mean(-1, keepdim=True)).gather(2, tokens[:, 1:, None]).mean()
    assert total == pytest.approx(float(right), abs=1e-5)


def test_what_rests_on_an_unmet_assumption_is_nan_and_the_rest_is_not():
    made = resident(opt(do_layer_norm_before=False))
    made.facts = replace(made.facts, unmet=unmet_assumptions(made.module.config))
    copying = of_weights(Copying(), made.weights)
    assert all(np.isnan(of).all() and of.shape == (2, 4) for of in copying.values())
    said = apply.why_undefined(Copying(), Setting(made.facts))
    assert said.startswith("ov_copying, ov_copying_centred: NaN, because the heads' outputs")
    assert set(apply.unmet(DirectLogits(), made.facts)) == {"by_head", "rest", "embedding"}


def test_every_measure_relies_on_assumptions_that_there_are():
    for measure in registry().values():
        assert set(measure.relies_on) <= {variable.name for variable in measure.variables}
        assert {name for of in measure.relies_on.values() for name in of} <= set(ASSUMPTIONS)


def test_a_reduced_model_has_a_layer_of_each_kind_and_is_small():
    config = AutoConfig.for_model(
        "gemma3_text", vocab_size=5000, hidden_size=32, num_hidden_layers=12,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, intermediate_size=4096,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 3,
    )  # fmt: skip
    made = reduced(config)
    assert made.module.config.layer_types == ["sliding_attention"] * 3 + ["full_attention"]
    assert made.facts.vocabulary == 64 and made.facts.d_mlp == 64 and made.facts.d_model == 32
    assert config.num_hidden_layers == 12 and config.vocab_size == 5000  # the caller's own


def test_the_check_is_the_same_each_time_and_leaves_the_random_state():
    state = torch.get_rng_state()
    first = unmet_assumptions(opt(do_layer_norm_before=False))
    assert first == unmet_assumptions(opt(do_layer_norm_before=False))
    assert torch.equal(torch.get_rng_state(), state)


def test_numbers_that_are_not_finite_never_agree():
    nan = torch.tensor([1.0, torch.nan])
    assert not close(nan, nan) and not proportional(nan, nan)
    assert not close(torch.zeros(2), torch.zeros(2))
