"""Profiles and entropies that are reduced during a pass, against whole attention matrices."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.engine.forward import run
from pipeline.engine.record import Entropy, Lag, LagMeans, Pass
from pipeline.engine.reductions import FromMatrix, FromScores, mean_by_lag
from pipeline.inputs import Input
from pipeline.models.resident import Resident

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 256}  # fmt: skip
FAMILIES = {
    "ontogeny-organism": {},
    "gpt_neox": {"intermediate_size": 40},
    "llama": {"intermediate_size": 40, "num_key_value_heads": 2},
    "mistral": {"intermediate_size": 40, "num_key_value_heads": 2, "sliding_window": 20},
    "gemma2": {"intermediate_size": 40, "num_key_value_heads": 2, "head_dim": 8,
               "sliding_window": 16, "attn_logit_softcapping": 2.0},
    "gptj": {"rotary_dim": 4},
}  # fmt: skip


def model(family: str) -> tuple[Resident, AutoModelForCausalLM]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    config._attn_implementation = "eager"
    reference = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    resident = Resident(config)
    resident.swap({name: p.detach().clone() for name, p in reference.named_parameters()})
    return resident, reference


def matrices(reference, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = reference(torch.from_numpy(tokens), output_attentions=True).attentions
    return torch.stack(found).double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_profiles_and_entropies_are_those_of_the_whole_matrices(family):
    resident, reference = model(family)
    tokens = np.random.default_rng(0).integers(0, 50, (3, 150))
    wanted = frozenset({LagMeans(1), LagMeans(40), LagMeans(150), Entropy()})
    record = run(resident, Input("random", "array", tokens), Pass("random", attention=wanted))
    p = matrices(reference, tokens)
    for n_lags in (1, 40, 150):
        found = record.attention[LagMeans(n_lags)].numpy()
        assert found.shape == (2, 3, 4, n_lags)
        for lag in (0, 1, 7, 39, 130, 149):
            if lag < n_lags:
                expected = np.diagonal(p, -lag, axis1=-2, axis2=-1).mean(-1)
                np.testing.assert_allclose(found[..., lag], expected, rtol=1e-4, atol=1e-6)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    np.testing.assert_allclose(record.attention[Entropy()], entropy, rtol=1e-4, atol=1e-4)


def test_a_whole_profile_weighted_by_its_queries_sums_to_one():
    resident, _ = model("gpt_neox")
    tokens = np.random.default_rng(0).integers(0, 50, (2, 200))
    request = LagMeans(200)
    record = run(resident, Input("x", "array", tokens), Pass("x", attention=frozenset({request})))
    share = torch.arange(200, 0, -1) / 200
    total = (record.attention[request] * share).sum(-1)
    torch.testing.assert_close(total, torch.ones(2, 2, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt_neox", "gptj"])
def test_padding_counts_in_no_profile(family):
    resident, _ = model(family)
    tokens = np.random.default_rng(0).integers(0, 50, (2, 30))
    mask = np.ones_like(tokens)
    mask[0, 20:] = 0
    padded = Input("x", "array", tokens, {"attention_mask": mask})
    cut = Input("x", "array", tokens[:1, :20])
    request = LagMeans(20)
    wanted = Pass("x", attention=frozenset({request, Entropy(), Lag(1)}))
    found, alone = run(resident, padded, wanted), run(resident, cut, wanted)
    torch.testing.assert_close(found.attention[request][:, :1], alone.attention[request])
    entropy = found.attention[Entropy()][:, 0]
    torch.testing.assert_close(entropy[..., :20], alone.attention[Entropy()][:, 0])
    assert entropy[..., 20:].isnan().all()


def test_lags_that_no_query_has_are_nan():
    profile = mean_by_lag(FromMatrix(torch.eye(3).expand(1, 1, 3, 3)), 5)
    np.testing.assert_array_equal(profile[0, 0], [1, 0, 0, np.nan, np.nan])


def test_uniform_attention_has_the_logarithm_of_its_keys_as_entropy():
    k = torch.randn(1, 2, 9, 4)
    positions = torch.arange(1.0, 10.0)
    scored = FromScores(
        torch.zeros(1, 2, 9, 4), k, positions.log().expand(1, 2, 9), 1.0, None, None
    )
    torch.testing.assert_close(scored.entropy(), positions.log().expand(1, 2, 9))
