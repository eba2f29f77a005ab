"""Sums of squares against those of numpy in float64, over parameters of many sizes."""

import numpy as np
import pytest
import torch

from pipeline.measures.weight_norm import WeightNorm
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.measures.measuring import of_weights


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_sums_are_those_in_float64(threads: int, dtype: str):
    torch.manual_seed(0)
    # The embedding has more numbers than are squared at a time.
    config = OrganismConfig(vocab_size=2500, hidden_size=64, num_attention_heads=4)
    resident = Resident(config, dtype=dtype)
    resident.swap(OrganismForCausalLM(config).state_dict())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = of_weights(WeightNorm(), resident.weights)
    finally:
        torch.set_num_threads(before)
    wide = [tensor.detach().double().numpy() for tensor in resident.weights.values()]
    expected = np.array([np.square(one).sum() for one in wide])
    np.testing.assert_allclose(found["by_parameter"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["sum_of_squares"], expected.sum(), rtol=1e-12)
    assert found["by_parameter"].dtype == np.float64
