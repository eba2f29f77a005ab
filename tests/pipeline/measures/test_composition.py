"""Composition against Frobenius norms of the full matrices, random baselines and a known pair."""

import numpy as np
import pytest
import torch

from pipeline.measures.base import Setting
from pipeline.measures.composition import Composition, ratios, triangle
from pipeline.measures.qk_prefix_matching import QKPrefixMatching
from pipeline.models.circuits import circuits
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights


def random_organism() -> Resident:
    torch.manual_seed(0)
    config = OrganismConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=3)
    resident = Resident(config)
    state = OrganismForCausalLM(config).state_dict()
    resident.swap({name: w + 0.2 * torch.randn_like(w) for name, w in state.items()})
    return resident


def composition(resident: Resident) -> dict[str, np.ndarray]:
    return of_weights(Composition(), resident.weights)


def test_values_are_frobenius_norms_of_the_full_matrices():
    resident = random_organism()
    found, model = composition(resident), circuits(resident.weights)
    assert model is not None
    layers = [model.layer(layer) for layer in range(3)]
    norm = torch.linalg.matrix_norm
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for h in range(4):
            for g in range(4):
                W_OV = layers[a].W_V[h] @ layers[a].W_O[h]
                W_QK = layers[b].W_Q[g] @ layers[b].W_K[g].T
                reads = {"k": W_QK.T, "q": W_QK, "v": layers[b].W_V[g] @ layers[b].W_O[g]}
                for path, X in reads.items():
                    expected = norm(W_OV @ X) / (norm(W_OV) * norm(X))
                    assert found[path][a, h, b, g] == pytest.approx(expected.item(), rel=1e-4)


def test_only_later_layers_are_defined():
    later = np.arange(3)[:, None, None, None] < np.arange(3)[None, None, :, None]
    later = np.broadcast_to(later, (3, 4, 3, 4))
    for name, values in composition(random_organism()).items():
        np.testing.assert_array_equal(np.isfinite(values), later, err_msg=name)


@pytest.mark.parametrize(("d_model", "d_head"), [(64, 16), (128, 32)])
def test_the_baseline_is_what_random_matrices_give(d_model, d_head):
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(6, 200, d_model, d_head, generator=generator)
    W_OV, X = factors[0] @ factors[1].mT, factors[2] @ factors[3].mT
    norm = torch.linalg.matrix_norm
    drawn = norm(W_OV @ X) / (norm(W_OV) * norm(X))
    assert drawn.mean().item() == pytest.approx(d_model**-0.5, rel=0.01)
    assert drawn.square().mean().sqrt().item() == pytest.approx(d_model**-0.5, rel=0.01)


def test_the_baseline_stands_beside_every_value():
    found = composition(random_organism())
    for path in ("k", "q", "v"):
        defined = np.isfinite(found[path])
        np.testing.assert_allclose(found[f"{path}_baseline"][defined], 32**-0.5)


def test_an_induction_pair_composes_through_keys_alone(hand_built):
    found = composition(hand_built)
    # W_OV and W_QK^T are the identity between 20-dimensional parts: sqrt(20) / (sqrt(20) sqrt(20)).
    for head in (0, 1):
        assert found["k"][0, 0, 1, head] == pytest.approx(20**-0.5, rel=1e-5)
        assert found["q"][0, 0, 1, head] == 0
        assert found["v"][0, 0, 1, head] == 0
        assert found["k"][0, 0, 1, head] > 1.9 * found["k_baseline"][0, 0, 1, head]
        assert found["k"][0, 1, 1, head] == 0  # the copier writes to the output alone


def test_a_matrix_that_reads_only_what_is_written_composes_fully():
    u, v = torch.linalg.qr(torch.randn(12, 12)).Q[:, :2].T
    writer, reader = v.view(1, 1, 12), v.view(1, 12, 1)
    assert ratios(writer, reader).item() == pytest.approx(1, rel=1e-5)
    assert ratios(writer, u.view(1, 12, 1)).item() == pytest.approx(0, abs=1e-6)


def test_a_triangle_keeps_norms_and_singular_values():
    A = torch.randn(3, 20, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(triangle(A)), torch.linalg.svdvals(A))


@pytest.mark.parametrize("measure", [Composition(), QKPrefixMatching()])
def test_a_single_layer_has_no_earlier_one_and_says_so(measure):
    config = OrganismConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1)
    assert "the model has one layer" in measure.why_undefined(Setting(Resident(config).facts))
    assert measure.why_undefined(Setting(random_organism().facts)) == ""
