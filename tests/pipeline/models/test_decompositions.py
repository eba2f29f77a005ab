"""A matrix that is not finite has NaN, and the others of its batch keep their values."""

import numpy as np
import pytest
import torch

from pipeline.measures.composition import readers_of, writer_of
from pipeline.measures.copying import eigenvalue_score
from pipeline.models.circuits import Heads
from pipeline.models.decompositions import (
    eigenvalues,
    eigenvalues_of_symmetric,
    singular_values,
)

NUMPYS = {
    eigenvalues: np.linalg.eigvals,
    eigenvalues_of_symmetric: np.linalg.eigvalsh,
    singular_values: lambda matrix: np.linalg.svd(matrix, compute_uv=False),
}


@pytest.mark.parametrize("decompose", NUMPYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_the_matrix_that_is_not_finite_has_nan(decompose, bad):
    matrices = np.random.default_rng(0).normal(size=(2, 3, 5, 5))
    matrices += matrices.swapaxes(-1, -2)
    matrices[1, 2, 4, 0] = bad
    found = decompose(torch.from_numpy(matrices)).numpy()
    for i, j in np.ndindex(2, 3):
        if (i, j) == (1, 2):
            assert np.isnan(found[i, j]).all()
        else:
            expected = np.sort_complex(NUMPYS[decompose](matrices[i, j]))
            np.testing.assert_allclose(np.sort_complex(found[i, j]), expected, atol=1e-12)


def test_scores_of_eigenvalues_by_hand():
    matrices = torch.diag_embed(torch.tensor([[3.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    matrices[2, 0, 1] = torch.inf
    found = eigenvalue_score(matrices)
    assert found[0] == 0.5  # (3 - 1) / (3 + 1)
    assert found[1:].isnan().all()


def test_compositions_of_norms_beyond_the_dtype_are_nan_and_not_zero():
    torch.manual_seed(0)
    heads = Heads(*(torch.randn(2, 6, 3) for _ in range(3)), torch.randn(2, 3, 6))
    heads.W_O[1] *= 1e30  # its square is beyond float32
    assert writer_of(heads)[0].isfinite().all() and writer_of(heads)[1].isnan().all()
    heads.W_K[0] *= 1e-30
    assert readers_of(heads)["k"][0].isnan().all() and readers_of(heads)["q"][1].isfinite().all()
