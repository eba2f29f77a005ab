"""Prefix matching from the weights against the vocabulary-sized matrix and a known pair."""

import numpy as np
import pytest
import torch

from pipeline.measures.composition import Composition
from pipeline.measures.qk_prefix_matching import QKPrefixMatching
from pipeline.models.circuits import circuits
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights


def random_organism(seed: int = 0, shared: float = 0.0, **options) -> Resident:
    torch.manual_seed(seed)
    config = OrganismConfig(
        **{"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, **options}
    )
    resident = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    state = {name: w + 0.1 * torch.randn_like(w) for name, w in state.items()}
    state["model.embed_tokens.weight"] += shared * torch.randn(config.hidden_size)
    resident.swap(state)
    return resident


def matching(resident: Resident) -> dict[str, np.ndarray]:
    return of_weights(QKPrefixMatching(), resident.weights)


def test_scores_are_those_of_the_vocabulary_sized_matrix():
    resident = random_organism(shared=0.5)
    found, model = matching(resident), circuits(resident.weights)
    k = of_weights(Composition(), resident.weights)["k"]
    assert model is not None
    W_E = model.W_E.double()
    for layer in (1, 2):
        for head in range(4):
            earlier = np.nan_to_num(k[:, :, layer, head], nan=-1)
            a, h = np.unravel_index(earlier.argmax(), earlier.shape)
            assert (found["partner_layer"][layer, head], found["partner_head"][layer, head]) == (
                a,
                h,
            )
            first, second = model.layer(int(a)), model.layer(layer)
            W_OV = (first.W_V[h] @ first.W_O[h]).double()
            W_QK = (second.W_Q[head] @ second.W_K[head].T).double()
            for name, keys in {"score": W_E, "score_centred": W_E - W_E.mean(0)}.items():
                values = np.linalg.eigvals((W_E @ W_QK @ W_OV.T @ keys.T).numpy())
                expected = values.real.sum() / np.abs(values).sum()
                assert found[name][layer, head] == pytest.approx(expected, abs=1e-4)


def test_an_induction_pair_matches_perfectly(hand_built):
    found = matching(hand_built)
    np.testing.assert_array_equal(found["partner_layer"][1], [0, 0])
    np.testing.assert_array_equal(found["partner_head"][1], [0, 0])
    np.testing.assert_allclose(found["score"][1], 1, rtol=1e-6)
    np.testing.assert_allclose(found["score_centred"][1], 1, rtol=1e-6)


def test_the_first_layer_has_no_partner(hand_built):
    found = matching(hand_built)
    assert np.isnan(found["score"][0]).all() and (found["partner_layer"][0] == -1).all()


def test_random_weights_scatter_around_zero_once_centred():
    found = [matching(random_organism(seed, shared=1.0)) for seed in range(12)]
    centred = np.stack([one["score_centred"][1:] for one in found])
    assert abs(centred.mean()) < 0.05
    assert np.abs(np.stack([one["score"][1:] for one in found])).mean() > 2 * np.abs(centred).mean()
