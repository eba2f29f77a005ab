"""The profile of heads whose attention is known."""

import numpy as np
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.measures import apply
from pipeline.measures.base import Setting
from pipeline.measures.lag_profile import LagProfile
from pipeline.measures.sink import Sink
from tests.pipeline.measures import measuring


def measured(measure, resident, made):
    setting = Setting(resident.facts, made)
    return measuring.measured(measure, resident, made), apply.coordinates(measure, setting)


def blocks(resident):
    spec = RepeatedInput(block_length=8, sequences=5, vary=False)
    return make_input("repeated", spec, "", resident.facts)


def test_stripes_stand_where_the_mechanisms_are(hand_built):
    made = blocks(hand_built)
    values, coordinates = measured(LagProfile(), hand_built, made)
    profile, length = values["profile"], made.tokens.shape[1]
    assert profile.shape == (2, 2, length)
    np.testing.assert_array_equal(coordinates["lag"], np.arange(length))
    # The first token can attend to itself alone.
    expected = np.eye(length)[1] + np.eye(length)[0] / length
    np.testing.assert_allclose(profile[0, 0], expected, atol=1e-6)
    # Queries of the second block attend n - 1 back; those before it attend uniformly.
    uniform = sum(1 / (i + 1) for i in range(7, 9))
    np.testing.assert_allclose(profile[1, 0, 7], (8 + uniform) / (length - 7), rtol=1e-5)
    share = (length - np.arange(length)) / length
    np.testing.assert_allclose((profile * share).sum(-1), 1, rtol=1e-6)


def test_lags_are_capped(hand_built):
    values, coordinates = measured(LagProfile(max_lag=3), hand_built, blocks(hand_built))
    assert values["profile"].shape == (2, 2, 4)
    np.testing.assert_array_equal(coordinates["lag"], [0, 1, 2, 3])


def test_sharp_heads_have_no_entropy_and_uniform_ones_all_of_it(hand_built):
    made = blocks(hand_built)
    values, _ = measured(Sink(), hand_built, made)
    length = made.tokens.shape[1]
    np.testing.assert_allclose(values["entropy"][0, 0], 0, atol=1e-5)
    np.testing.assert_allclose(values["entropy"][0, 1], values["uniform_entropy"], rtol=1e-5)
    harmonic = (1 / np.arange(2, length + 1)).mean()
    np.testing.assert_allclose(values["first_token"][0], [1 / (length - 1), harmonic], rtol=1e-5)
    assert torch.tensor(values["uniform_entropy"]).isfinite()
