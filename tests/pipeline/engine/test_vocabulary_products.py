"""Products over the vocabulary against float64, for several numbers of threads."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.engine.vocabulary_products import over_the_vocabulary


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def matrix(width: int, rows: int, shared: float) -> torch.Tensor:
    return torch.randn(rows, width) + shared * torch.randn(width)


@pytest.mark.parametrize("shared", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("rows", [1, 7, 2500])
def test_products_are_those_in_float64(threads: None, rows: int, shared: float):
    torch.manual_seed(0)
    left, right = matrix(15, rows, shared), matrix(22, rows, shared)
    for a, b in ((left, right), (left, left)):
        found = over_the_vocabulary(a, b)
        wide, other = a.double(), b.double()
        centred = (wide - wide.mean(dim=0)).T @ (other - other.mean(dim=0))
        # Of a mean in float32, some 1e-7 of it is left in each row.
        of_mean = rows * (1e-6 * shared) ** 2
        torch.testing.assert_close(
            found.centred.double(), centred, rtol=1e-5, atol=1e-6 * rows + of_mean
        )
        raw = wide.T @ other
        size = float(raw.abs().max())
        torch.testing.assert_close(found.raw.double(), raw, rtol=1e-5, atol=2e-6 * size)


def test_the_product_of_a_matrix_with_itself_is_symmetric(threads: None):
    torch.manual_seed(0)
    rows = matrix(31, 1300, 1.0)
    # A copy is another object, of which the whole product is computed.
    found, whole = over_the_vocabulary(rows, rows), over_the_vocabulary(rows, rows.clone())
    for product, expected in zip(found, whole, strict=True):
        assert torch.equal(product, product.T)
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-3)


def test_a_number_that_is_not_finite_reaches_its_rows_and_columns_alone(threads: None):
    left, right = torch.ones(9, 4), torch.ones(9, 5)
    left[3, 1] = torch.nan
    for product in over_the_vocabulary(left, right):
        assert product.isnan()[1].all() and product.isnan().sum() == 5
