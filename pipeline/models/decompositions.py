"""Eigenvalues and singular values of many small matrices, some of which may not be finite.

LAPACK's routines raise for a batch with a single NaN or infinity. These functions return NaN for
the matrices that are not finite, and the values of all others.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def eigenvalues(matrices: Float[Tensor, "*batch n n"]) -> Complex[Tensor, "*batch n"]:
    """Return the eigenvalues of each matrix, in no given order; NaN if it is not finite."""
    return _of_finite(torch.linalg.eigvals, matrices)


def eigenvalues_of_symmetric(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Return the eigenvalues of each symmetric matrix, ascending; NaN if it is not finite."""
    return _of_finite(torch.linalg.eigvalsh, matrices)


def singular_values(matrices: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch n"]:
    """Return the singular values of each matrix, descending; NaN if it is not finite."""
    return _of_finite(torch.linalg.svdvals, matrices)


def _of_finite(
    decompose: Callable[[Tensor], Tensor], matrices: Float[Tensor, "*batch rows columns"]
) -> Float[Tensor, "*batch n"] | Complex[Tensor, "*batch n"]:
    finite = matrices.isfinite().all(dim=-1).all(dim=-1)
    if finite.all():
        return decompose(matrices)
    # Any finite matrix would do in their place: its values are replaced by NaN.
    found = decompose(matrices.where(finite[..., None, None], 0))
    return found.masked_fill(~finite[..., None], torch.nan)
