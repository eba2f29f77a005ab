"""Eigenvalues and singular values of many small matrices, some of which may not be finite.

LAPACK's routines raise on one matrix that holds NaN or an infinity, and so would lose the others of
its batch. Here such a matrix alone has NaN.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def eigenvalues(matrices: Float[Tensor, "*batch n n"]) -> Complex[Tensor, "*batch n"]:
    """Return the eigenvalues of each matrix; NaN for one that is not finite."""
    return _of_finite(torch.linalg.eigvals, matrices)


def eigenvalues_of_symmetric(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Return the eigenvalues of each symmetric matrix, ascending; NaN where it is not finite."""
    return _of_finite(torch.linalg.eigvalsh, matrices)


def singular_values(matrices: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch n"]:
    """Return the singular values of each matrix, descending; NaN for one that is not finite."""
    return _of_finite(torch.linalg.svdvals, matrices)


def _of_finite(
    decompose: Callable[[Tensor], Tensor], matrices: Float[Tensor, "*batch rows columns"]
) -> Float[Tensor, "*batch n"] | Complex[Tensor, "*batch n"]:
    finite = matrices.isfinite().all(dim=-1).all(dim=-1)
    if finite.all():
        return decompose(matrices)
    found = decompose(matrices.where(finite[..., None, None], 0))
    return found.masked_fill(~finite[..., None], torch.nan)
