import numpy as np
import pytest
from numpy import cos, pi

from pipeline.measures.logit_waves import LogitWaves
from tests.pipeline.modular_organisms import (
    adding_model,
    amplitude,
    measured,
    random_model,
    record,
    table_input,
)

MEASURE = LogitWaves()


@pytest.mark.parametrize(("p", "operation"), [(11, "add"), (11, "subtract"), (10, "add")])
def test_coefficients_and_shares_follow_the_formulas(p, operation):
    model, table = random_model(p), table_input(p, operation)
    logits = record(model, table).logits[-1][:, :p].numpy()
    a, b = table.tokens[:, 0], table.tokens[:, 1]
    s = a - b if operation == "subtract" else a + b
    found = measured(MEASURE, model, table)
    centred = logits - logits.mean()
    for k in range(1, p // 2 + 1):
        wave = cos(2 * pi * k * (s[:, None] - np.arange(p)) / p)
        alpha = (wave * logits).sum() / (wave**2).sum()
        explained = 1 - ((centred - alpha * wave) ** 2).sum() / (centred**2).sum()
        assert found["coefficient"][k - 1] == pytest.approx(alpha, rel=1e-9, abs=1e-13)
        assert found["variance_explained"][k - 1] == pytest.approx(explained, rel=1e-9, abs=1e-13)


def test_the_exact_adder_has_its_own_coefficients():
    p = 13
    found = measured(MEASURE, adding_model(p, [3, 6]), table_input(p))
    expected = np.zeros(6)
    expected[[2, 5]] = amplitude(3, p), amplitude(6, p)
    np.testing.assert_allclose(found["coefficient"], expected, atol=1e-11)
    assert found["variance_explained"].sum() == pytest.approx(1, abs=1e-12)


def test_other_operations_are_undefined():
    found = measured(MEASURE, random_model(11), table_input(11, "x2_y2"))
    assert all(np.isnan(value).all() and value.shape == (5,) for value in found.values())
