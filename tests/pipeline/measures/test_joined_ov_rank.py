"""Joined ranks against singular values of the full matrices, and of planted heads."""

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.joined_ov_rank import JoinedOVRank
from pipeline.models.circuits import circuits
from tests.pipeline.measures.ablating import random_resident
from tests.pipeline.measures.measuring import of_weights
from tests.pipeline.measures.test_effective_rank import from_the_definition


@pytest.mark.parametrize("heads", [((0, 1), (1, 2), (1, 0)), ((1, 3),), None])
def test_ranks_are_those_of_the_full_matrices(heads):
    resident = random_resident()
    found = of_weights(JoinedOVRank(heads=heads), resident.weights)
    model = circuits(resident.weights)
    assert model is not None
    chosen = heads or [(layer, head) for layer in range(2) for head in range(4)]
    ov = [model.layer(layer).W_V[h] @ model.layer(layer).W_O[h] for layer, h in chosen]
    expected = {
        "sum": from_the_definition(torch.stack(ov).sum(0)),
        "stacked": from_the_definition(torch.cat(ov)),
        "largest": max(map(from_the_definition, ov)),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


def test_heads_that_write_the_same_have_the_rank_of_one_and_apart_twice(hand_built):
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    found = of_weights(JoinedOVRank(heads=((0, 0), (0, 1))), hand_built.weights)
    # Both read the token; head 0 writes it to PREVIOUS, head 1 to OUTPUT: 20 directions are read.
    assert found["sum"] == pytest.approx(20) and found["stacked"] == pytest.approx(40)
    twice = of_weights(JoinedOVRank(heads=((0, 0), (0, 0))), hand_built.weights)
    assert twice["sum"] == twice["stacked"] == pytest.approx(20)
    # Induction and its opposite write the same directions, and cancel in the sum.
    found = of_weights(JoinedOVRank(heads=((1, 0), (1, 1))), hand_built.weights)
    assert np.isnan(found["sum"]) and found["stacked"] == pytest.approx(20)
    values = state["model.layers.0.self_attn.v_proj.weight"]
    values[40:50] = 0  # head 1 reads 10 of the 20 tokens
    hand_built.swap(state)
    found = of_weights(JoinedOVRank(heads=((0, 0), (0, 1))), hand_built.weights)
    assert found["stacked"] == pytest.approx(30) and found["largest"] == pytest.approx(20)


def test_heads_that_do_not_exist_are_refused(hand_built):
    with pytest.raises(InputError, match=r"no head \[2, 0\]"):
        apply.check(JoinedOVRank(heads=((2, 0),)), Setting(hand_built.facts))
