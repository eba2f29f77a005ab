"""Products over the vocabulary against float64, for several numbers of threads."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.engine.vocabulary_products import (
    VocabularyProduct,
    _parts,
    over_the_vocabulary,
)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def matrix(width: int, rows: int, shared: float) -> torch.Tensor:
    return torch.randn(rows, width) + shared * torch.randn(width)


def raw_and_centred(product: VocabularyProduct) -> torch.Tensor:
    """Return the whole matrices, as products between two identities."""
    left, right = product.centred.shape
    n = max(left, right)  # the matrices between are square: with rows and columns of zeros
    return product.between(torch.eye(n, left), torch.eye(right, n))[:, :left, :right]


@pytest.mark.parametrize("shared", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("rows", [1, 7, 2500])
def test_products_are_those_in_float64(threads: None, rows: int, shared: float):
    torch.manual_seed(0)
    left, right = matrix(15, rows, shared), matrix(22, rows, shared)
    for a, b in ((left, right), (left, left)):
        wide, other = a.double(), b.double()
        centred = (wide - wide.mean(dim=0)).T @ (other - other.mean(dim=0))
        product = over_the_vocabulary(a, b)
        found = raw_and_centred(product)
        torch.testing.assert_close(found[1], centred, rtol=1e-6, atol=1e-7 * rows)
        # Beyond what the centred one has lost, the raw one has lost what the errors of the means,
        # which are of the size of those of the centred rows, make of the other mean.
        lost = (found[0] - wide.T @ other) - (found[1] - centred)
        assert lost.abs().max() <= rows * 1e-7 * (1 + 10 * shared)
        for mean, expected in ((product.mean_left, wide), (product.mean_right, other)):
            torch.testing.assert_close(mean, expected.mean(dim=0), rtol=0, atol=1e-7)


def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(0)
    left, right = matrix(31, 2500, 3.0), matrix(22, 2500, 3.0)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append([over_the_vocabulary(left, right), over_the_vocabulary(left, left)])
    finally:
        torch.set_num_threads(before)
    for products in found[1:]:
        for product, expected in zip(products, found[0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(product[:3], expected[:3], strict=True))


def test_the_parts_of_wide_matrices_take_a_share_of_their_memory():
    for rows, width in ((50304, 512), (32000, 4096), (128256, 8192), (50, 64)):
        parts = _parts(*2 * [torch.empty(rows, width, device="meta")])
        assert len(parts) == 1 or len(parts) * width**2 <= rows * width / 4
        assert sum(part.stop - part.start for part in parts) == rows


def test_the_product_of_a_matrix_with_itself_is_symmetric(threads: None):
    torch.manual_seed(0)
    rows = matrix(31, 1300, 1.0)
    # A copy is another object, of which the whole product is computed.
    found, whole = over_the_vocabulary(rows, rows), over_the_vocabulary(rows, rows.clone())
    assert torch.equal(found.centred, found.centred.T)
    for product, expected in zip(found[:3], whole[:3], strict=True):
        torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-3)


def test_a_number_that_is_not_finite_reaches_its_row_alone(threads: None):
    left, right = torch.ones(9, 4), torch.ones(9, 5)
    left[3, 1] = torch.nan
    product = over_the_vocabulary(left, right)
    assert product.centred.isnan()[1].all() and product.centred.isnan().sum() == 5
    assert product.mean_left.isnan().tolist() == [False, True, False, False]
    assert product.mean_right.isfinite().all()
