"""The factorised pass, compared with the plain one in every architecture that it accepts."""

import pytest
import torch

from pipeline.inputs import modular
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.table_forward import factorises, forward_table, pair_logits

P = 7
CASES = {
    "plain": {},
    "layer norm": {"layer_norm": True},
    "positions at queries and keys": {"positions": "queries_keys", "layer_norm": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "lm_head_bias": True},
    "attention only": {"intermediate_size": 0},
    "gelu": {"hidden_act": "gelu"},
}


def model_of(**changes) -> OrganismForCausalLM:
    shape = {"vocab_size": P + 1, "hidden_size": 12, "num_attention_heads": 3,
             "num_hidden_layers": 1, "intermediate_size": 20, "max_position_embeddings": 3,
             "layer_norm": False}  # fmt: skip
    torch.manual_seed(0)
    model = OrganismForCausalLM(OrganismConfig(**(shape | changes))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
@torch.inference_mode()
def test_logits_and_neurons_are_those_of_the_plain_pass(changes):
    model = model_of(**changes)
    neurons = []
    if model.model.layers[0].mlp is not None:
        model.model.layers[0].mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs: neurons.append(inputs[0][:, -1])
        )
    plain = model(torch.from_numpy(modular.table(P, "add")[0])).logits[:, -1]
    expected_neurons = neurons.pop() if neurons else None
    found = forward_table(model, P)
    torch.testing.assert_close(found.logits, plain, rtol=1e-12, atol=1e-12)
    if expected_neurons is None:
        assert found.neurons is None
    else:
        torch.testing.assert_close(found.neurons, expected_neurons, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_gradients_of_some_pairs_are_those_of_the_plain_pass(changes):
    pairs, gradients = torch.tensor([3, 40, 11, 12]), []
    tokens = torch.from_numpy(modular.table(P, "add")[0])[pairs]
    for logits_of in (lambda m: pair_logits(m, P, pairs), lambda m: m(tokens).logits[:, -1]):
        model = model_of(**changes)
        logits_of(model).log_softmax(dim=1)[:, 2].sum().backward()
        gradients.append({name: w.grad for name, w in model.named_parameters()})
    found, expected = gradients
    assert set(found) == set(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_scores_far_apart_do_not_overflow():
    model = model_of()
    model.model.layers[0].self_attn.k_proj.weight *= 1e4
    plain = model(torch.from_numpy(modular.table(P, "add")[0])).logits[:, -1]
    torch.testing.assert_close(forward_table(model, P).logits, plain, rtol=1e-9, atol=1e-9)


def test_what_mixes_tokens_before_the_last_query_does_not_factorise():
    assert factorises(model_of())
    assert not factorises(model_of(smeared_keys=True))
    assert not factorises(model_of(num_hidden_layers=2))
