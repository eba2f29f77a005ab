"""Effects of parts of the stream on logits and losses: identities, and second computations."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.inputs import Input
from pipeline.measures.direct_logits import DirectLogits, counted_predictions
from pipeline.measures.logit_lens import LogitLens
from pipeline.measures.residual_norm import ResidualNorm
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import measured


def organism(**options):
    """Return a resident and a plain transformers model with the same weights."""
    torch.manual_seed(0)
    config = OrganismConfig(**{"hidden_size": 32, "num_attention_heads": 4, **options})
    plain = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    resident = Resident(config)
    resident.swap({name: p.detach().clone() for name, p in plain.named_parameters()})
    return resident, plain


@pytest.fixture(scope="module")
def with_everything():
    return organism(intermediate_size=24, attention_bias=True, mlp_bias=True, lm_head_bias=True)


def text(length: int = 20) -> Input:
    return Input("text", "text", np.random.default_rng(0).integers(0, 64, (3, length)))


def centred_logits(plain, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        logits = plain(torch.from_numpy(tokens)).logits.double()
    return logits - logits.mean(-1, keepdim=True)


def test_the_sum_of_all_attributions_is_the_logit(with_everything):
    resident, plain = with_everything
    made = text()
    found = measured(DirectLogits(), resident, made)
    total = found["by_head"].sum() + found["rest"].sum() + found["embedding"] + found["bias"]
    assert total == pytest.approx(found["logit"], abs=1e-5)
    targets = torch.from_numpy(made.tokens[:, 1:, None])
    expected = centred_logits(plain, made.tokens)[:, :-1].gather(-1, targets).mean()
    assert found["logit"] == pytest.approx(expected.item(), rel=1e-4)


def test_without_mlp_and_biases_the_heads_are_all_that_blocks_add():
    resident, _ = organism()
    found = measured(DirectLogits(), resident, text())
    np.testing.assert_allclose(found["rest"], 0, atol=1e-5)
    assert (np.abs(found["by_head"]) > 1e-3).all()


def test_a_heads_share_in_the_last_layer_is_what_its_ablation_takes_away():
    # Without norms nothing else changes when a head of the last layer is removed.
    resident, plain = organism(layer_norm=False)
    made = text()
    found = measured(DirectLogits(), resident, made)
    targets = torch.from_numpy(made.tokens[:, 1:, None])
    before = centred_logits(plain, made.tokens)[:, :-1].gather(-1, targets).mean()
    with torch.no_grad():
        plain.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
    after = centred_logits(plain, made.tokens)[:, :-1].gather(-1, targets).mean()
    assert found["by_head"][1, 1] == pytest.approx((before - after).item(), rel=1e-4)


def test_induction_raises_and_anti_induction_lowers_the_repeated_token(hand_built):
    made = make_input("repeated", RepeatedInput(block_length=8), "", hand_built.facts)
    found = measured(DirectLogits(), hand_built, made)
    # One logit of 20 is raised by 1: 19/20 above the mean.
    np.testing.assert_allclose(found["by_head"][1], [0.95, -0.95], rtol=1e-5)
    assert found["by_head"][0, 0] == 0 and found["embedding"] == 0


def test_only_predictions_that_repetition_decides_are_counted():
    tokens = np.zeros((2, 17), dtype=np.int64)
    attributes = {"block_length": 8, "repeats": 2, "has_bos": True}
    counted = counted_predictions(Input("r", "repeated", tokens, attributes=attributes))
    # Token 9 is the first repeated one: it decides token 10, and so on to token 16.
    np.testing.assert_array_equal(np.flatnonzero(counted[0]), np.arange(9, 16))
    mask = np.ones((2, 17), dtype=np.int64)
    mask[0, 10:] = 0
    padded = counted_predictions(Input("t", "text", tokens, {"attention_mask": mask}))
    assert padded[0].sum() == 9 and padded[1].sum() == 16


def test_the_lens_reads_what_a_model_without_its_last_blocks_would_say(with_everything):
    resident, plain = with_everything
    made = text()
    found = measured(LogitLens(), resident, made)
    ids = torch.from_numpy(made.tokens)
    with torch.no_grad():
        states = plain(ids, output_hidden_states=True).hidden_states[:2]
        whole = plain(ids).logits.log_softmax(-1)[:, :-1]
        heads = [plain.lm_head(plain.model.norm(state)) for state in states]
    predictions = [logits.log_softmax(-1)[:, :-1] for logits in heads] + [whole]
    for k, log_p in enumerate(predictions):
        loss = -log_p.gather(-1, ids[:, 1:, None]).mean()
        divergence = torch.nn.functional.kl_div(log_p, whole, log_target=True, reduction="sum")
        assert found["loss"][k] == pytest.approx(loss.item(), rel=1e-4)
        assert found["divergence"][k] == pytest.approx(divergence.item() / 57, abs=1e-4)
    assert found["divergence"][2] == 0


def test_lengths_are_those_of_the_stream(with_everything):
    resident, plain = with_everything
    made = text()
    found = measured(ResidualNorm(), resident, made)
    with torch.no_grad():
        states = plain(torch.from_numpy(made.tokens), output_hidden_states=True).hidden_states
    for k in range(2):  # the last one has passed the final norm there
        length = states[k].square().sum(-1).sqrt()
        assert found["norm"][k] == pytest.approx(length[:, 1:].mean().item(), rel=1e-5)
        assert found["first_token"][k] == pytest.approx(length[:, 0].mean().item(), rel=1e-5)
    assert found["norm"].shape == (3,)
