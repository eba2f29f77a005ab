"""The eigenvalue score against the vocabulary-sized matrix, and on heads that copy by design."""

import numpy as np
import pytest
import torch

from pipeline.measures.copying import Copying, eigenvalue_score
from pipeline.models.circuits import circuits
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights


def random_organism(seed: int = 0, shared: float = 0.0, **options) -> Resident:
    """Return a random organism whose (un)embeddings have `shared` of one common direction."""
    torch.manual_seed(seed)
    config = OrganismConfig(
        **{"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, **options}
    )
    state = OrganismForCausalLM(config).state_dict()
    state = {name: w + 0.1 * torch.randn_like(w) for name, w in state.items()}
    common = torch.randn(config.hidden_size)
    state["model.embed_tokens.weight"] += shared * common
    state["lm_head.weight"] += shared * common
    resident = Resident(config)
    resident.swap(state)
    return resident


def scores(resident: Resident) -> dict[str, np.ndarray]:
    return of_weights(Copying(), resident.weights)


def test_scores_are_those_of_the_vocabulary_sized_matrix():
    resident = random_organism(shared=0.3)
    w = {name: tensor.double().numpy() for name, tensor in resident.weights.items()}
    found = scores(resident)
    for layer in range(2):
        at = f"model.layers.{layer}"
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            gain, final = w[f"{at}.input_layernorm.weight"], w["model.norm.weight"]
            W_V = gain[:, None] * w[f"{at}.self_attn.v_proj.weight"].T[:, part]
            W_O = w[f"{at}.self_attn.o_proj.weight"].T[part]
            W_U = final[:, None] * w["lm_head.weight"].T
            for name, unembedding in {
                "ov_copying": W_U,
                "ov_copying_centred": W_U - W_U.mean(1, keepdims=True),
            }.items():
                full = w["model.embed_tokens.weight"] @ W_V @ W_O @ unembedding
                values = np.linalg.eigvals(full)
                expected = values.real.sum() / np.abs(values).sum()
                assert found[name][layer, head] == pytest.approx(expected, abs=1e-4)


def test_a_copier_scores_one_and_an_anti_copier_minus_one(hand_built):
    for name, found in scores(hand_built).items():
        np.testing.assert_allclose(found[0, 1], 1, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found[1], [1, -1], rtol=1e-6, err_msg=name)


def test_a_head_that_writes_to_no_logit_has_no_score(hand_built):
    assert np.isnan(scores(hand_built)["ov_copying"][0, 0])


def test_centring_removes_the_copying_that_all_tokens_share():
    raw, centred = [], []
    for seed in range(20):
        found = scores(random_organism(seed, shared=3.0))
        raw.append(np.abs(found["ov_copying"]))
        centred.append(found["ov_copying_centred"])
    assert np.mean(raw) > 0.6
    assert abs(np.mean(centred)) < 0.05 and np.std(centred) < 0.3


def test_a_constant_added_to_all_unembeddings_changes_no_centred_score():
    resident = random_organism()
    before = scores(resident)["ov_copying_centred"]
    resident.weights["lm_head.weight"].add_(50 * torch.randn(32))
    np.testing.assert_allclose(scores(resident)["ov_copying_centred"], before, atol=1e-4)


def test_complex_pairs_count_with_their_real_part_and_modulus():
    quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    spiral = torch.tensor([[3.0, -4.0], [4.0, 3.0]])  # 3 +- 4i, of modulus 5
    found = eigenvalue_score(torch.stack([quarter_turn, spiral, torch.zeros(2, 2)]))
    np.testing.assert_allclose(found, [0, 0.6, np.nan], atol=1e-12)


def test_undefined_families_give_nan_of_the_right_shape():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("bloom", vocab_size=50, hidden_size=16, n_layer=3, n_head=2)
    resident = Resident(config)
    resident.swap(AutoModelForCausalLM.from_config(config).state_dict())
    assert circuits(resident.weights) is None
    found = scores(resident)
    assert {name: value.shape for name, value in found.items()} == {
        "ov_copying": (3, 2),
        "ov_copying_centred": (3, 2),
    }
    assert all(np.isnan(value).all() for value in found.values())
