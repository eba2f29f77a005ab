"""Measures of weights against their formulas, written out in float64.

The measures multiply smaller matrices, mostly in float32: the digits that this costs must not show,
also where all embeddings share a mean that outweighs what distinguishes them; and it must not
change which numbers are NaN.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.measures.copying import Copying
from pipeline.measures.qk_prefix_matching import QKPrefixMatching
from pipeline.measures.weight_norm import WeightNorm
from pipeline.models.circuits import Circuits, circuits
from pipeline.models.families import FAMILIES
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline import circuit_families
from tests.pipeline.measures.measuring import of_weights

SCORES = ("ov_copying", "ov_copying_centred", "score", "score_centred")
PARTNERS = ("partner_layer", "partner_head")
Values = dict[str, np.ndarray]


def eigenvalue_score(matrix: Tensor) -> float:
    if not matrix.isfinite().all():
        return np.nan
    values = np.linalg.eigvals(matrix.double().numpy())
    size = np.abs(values).sum()
    return values.real.sum() / size if size > 0 else np.nan


def plain_copying(model: Circuits) -> Values:
    W_E, W_U = model.W_E, model.W_U
    mean = W_U.mean(dim=1, keepdim=True)
    middles = {"ov_copying": W_U @ W_E, "ov_copying_centred": (W_U - mean) @ W_E}
    found = {name: np.full((model.n_layers, model.n_heads), np.nan) for name in middles}
    for layer in range(model.n_layers):
        heads = model.layer(layer)
        for head in range(model.n_heads):
            for name, middle in middles.items():
                circuit = heads.W_O[head] @ middle @ heads.W_V[head]
                found[name][layer, head] = eigenvalue_score(circuit)
    return found


def plain_partner(model: Circuits, layer: int, W_QK: Tensor) -> tuple[int, int] | None:
    """Return the earlier head with the largest |W_QK W_OV^T| / |W_QK| |W_OV|, if that is known."""
    ratios = {}
    for earlier in range(layer):
        heads = model.layer(earlier)
        for head in range(model.n_heads):
            W_OV = heads.W_V[head] @ heads.W_O[head]
            if not ((W_OV == 0).all() or (W_QK == 0).all()):
                size = W_QK.norm() * W_OV.norm()
                ratios[earlier, head] = float((W_QK @ W_OV.T).norm() / size)
    if not ratios or any(np.isnan(ratio) for ratio in ratios.values()):
        return None
    return max(ratios, key=lambda one: ratios[one])


def plain_matching(model: Circuits) -> Values:
    W_E, shape = model.W_E, (model.n_layers, model.n_heads)
    keys = {"score": W_E, "score_centred": W_E - W_E.mean(dim=0)}
    found = {name: np.full(shape, np.nan) for name in keys}
    found |= {name: np.full(shape, -1) for name in PARTNERS}
    for layer in range(1, model.n_layers):
        heads = model.layer(layer)
        for head in range(model.n_heads):
            W_QK = heads.W_Q[head] @ heads.W_K[head].T
            partner = plain_partner(model, layer, W_QK)
            if partner is None:
                continue
            found["partner_layer"][layer, head], found["partner_head"][layer, head] = partner
            first = model.layer(partner[0])
            W_V, W_O = first.W_V[partner[1]], first.W_O[partner[1]]
            for name, one in keys.items():
                circuit = heads.W_K[head].T @ W_O.T @ W_V.T @ one.T @ W_E @ heads.W_Q[head]
                found[name][layer, head] = eigenvalue_score(circuit)
    return found


def plain(resident: Resident) -> Values:
    model = circuits(resident.weights)
    assert model is not None
    squares = torch.stack([w.double().square().sum() for w in resident.weights.values()])
    return {**plain_copying(model), **plain_matching(model), "by_parameter": squares.numpy()}


def measured(resident: Resident) -> Values:
    measures = (Copying(), QKPrefixMatching(), WeightNorm())
    made = [of_weights(measure, resident.weights) for measure in measures]
    return {name: np.asarray(value) for values in made for name, value in values.items()}


def in_dtype(resident: Resident, dtype: str) -> Resident:
    made = Resident(resident.module.config, dtype=dtype)
    state = resident.module.state_dict()
    made.swap({name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()})
    return made


def organism(shared: float, vocabulary: int) -> Resident:
    """Return a random organism in float32 whose (un)embeddings have `shared` of one vector."""
    torch.manual_seed(0)
    config = OrganismConfig(
        vocab_size=vocabulary, hidden_size=64, num_attention_heads=4, num_hidden_layers=3
    )
    state = OrganismForCausalLM(config).state_dict()
    state = {name: w + 0.1 * torch.randn_like(w) for name, w in state.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] += shared * torch.randn(config.hidden_size)
    made = Resident(config)
    made.swap(state)
    return made


def assert_same(found: Values, expected: Values, atol: float) -> None:
    for name in (*SCORES, *PARTNERS):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=atol, err_msg=name)
    np.testing.assert_allclose(found["by_parameter"], expected["by_parameter"], rtol=1e-12)


# The circuits of few tokens have rank 3, and most of their eigenvalues are 0 but for rounding.
@pytest.mark.parametrize(("vocabulary", "atol"), [(2500, 1e-6), (3, 1e-5)])
@pytest.mark.parametrize("shared", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
def test_float32_keeps_its_digits_where_all_embeddings_share_a_mean(
    shared: float, vocabulary: int, atol: float
) -> None:
    resident = organism(shared, vocabulary)
    assert_same(measured(resident), plain(in_dtype(resident, "float64")), atol)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_every_family_have_the_values_of_the_formulas(family: str, dtype: str) -> None:
    config = circuit_families.config_of(family)
    if family == "granite":
        config.logits_scaling, config.residual_multiplier = 4.0, 0.3
    resident = in_dtype(circuit_families.resident(config), dtype)
    expected = plain(in_dtype(resident, "float64"))
    assert_same(measured(resident), expected, atol=1e-11 if dtype == "float64" else 1e-6)


# Of organisms: the embeddings, and matrices of heads in each of the layers.
MATRICES = (
    "model.embed_tokens", "lm_head", "model.norm",
    "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.o_proj",
    "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj",
    "model.layers.1.self_attn.o_proj", "model.layers.2.input_layernorm",
)  # fmt: skip


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("name", MATRICES)
def test_what_is_not_finite_or_zero_gives_nan_where_the_formulas_do(
    name: str, number: float
) -> None:
    resident = organism(0.3, 80)
    wide = in_dtype(resident, "float64")
    for weights in (resident.weights, wide.weights):
        weight = weights[f"{name}.weight"].detach()
        if number == 0 and name.endswith("_proj"):
            # All of one head: its rows, or for W_O its columns.
            (weight.T if name.endswith("o_proj") else weight)[16:32] = 0
        else:
            weight.flatten()[21] = number
    expected = plain(wide)
    assert np.isnan(expected["score"][0]).all()  # the first layer has no earlier heads
    assert_same(measured(resident), expected, atol=1e-6)
