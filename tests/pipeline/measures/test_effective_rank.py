"""Effective ranks against singular values of the full matrices, and of known spectra."""

import math

import numpy as np
import pytest
import torch

from pipeline.measures.effective_rank import EffectiveRank, effective_rank
from pipeline.models.circuits import circuits
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights


def from_the_definition(matrix: torch.Tensor) -> float:
    s = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    p = s[s > 1e-12 * s[0]] / s.sum()
    return math.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("vocabulary", [20, 90])
def test_ranks_are_those_of_the_full_matrices(vocabulary):
    torch.manual_seed(0)
    config = OrganismConfig(vocab_size=vocabulary, hidden_size=32, num_attention_heads=4)
    resident = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    resident.swap({name: w + 0.2 * torch.randn_like(w) for name, w in state.items()})
    found, model = of_weights(EffectiveRank(), resident.weights), circuits(resident.weights)
    assert model is not None
    for layer in range(2):
        heads = model.layer(layer)
        for h in range(4):
            ov, qk = heads.W_V[h] @ heads.W_O[h], heads.W_Q[h] @ heads.W_K[h].T
            assert found["ov"][layer, h] == pytest.approx(from_the_definition(ov), rel=1e-4)
            assert found["qk"][layer, h] == pytest.approx(from_the_definition(qk), rel=1e-4)
    direct = from_the_definition(model.W_E.double() @ model.W_U.double())
    assert found["embedding_unembedding"] == pytest.approx(direct, rel=1e-5)


def test_equal_singular_values_have_their_number_as_rank():
    spectra = torch.tensor([[1.0, 1, 1, 1], [3, 3, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(effective_rank(spectra), [4, 2, 1, np.nan])
    assert effective_rank(torch.tensor([3.0, 1.0])).item() == pytest.approx(4 / 3**0.75)


def test_hand_written_heads_use_one_direction_for_each_token(hand_built):
    found = of_weights(EffectiveRank(), hand_built.weights)
    np.testing.assert_allclose(found["ov"], 20, rtol=1e-5)
    np.testing.assert_allclose(found["qk"][0, 0], 16, rtol=1e-5)  # 17 positions, 16 before others
    assert np.isnan(found["qk"][0, 1])  # attends everywhere alike: W_QK = 0
    assert np.isnan(found["embedding_unembedding"])  # the embedding is written to no logit
