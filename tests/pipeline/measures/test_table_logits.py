import numpy as np
import pytest

from pipeline.measures.modular_addition import ModularAddition
from pipeline.measures.table_logits import TableLogits
from tests.pipeline.modular_organisms import measured, random_model, record, table_input


@pytest.mark.parametrize("operation", ["add", "multiply", "x2_y2"])
def test_logits_have_no_mean_and_own_keys_are_those_of_the_step(operation):
    p = 11
    model, table = random_model(p), table_input(p, operation)
    logits = record(model, table).logits[-1][:, :p].numpy()
    found = measured(TableLogits(), model, table)
    expected = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found["logits"], expected, atol=1e-6)
    # `measured` takes the key frequencies of `modular_addition` from the same model.
    own = measured(ModularAddition(), model, table)["restricted_loss"]
    np.testing.assert_allclose(found["restricted_loss_own_keys"], own, rtol=1e-12)
    assert np.isnan(own) == (operation == "x2_y2")
