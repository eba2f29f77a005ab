"""Compare two computations of the same numbers, up to rounding or up to one factor."""

import torch
from jaxtyping import Float
from torch import Tensor

# Relative to the largest number compared. Correct float32 sums differ by 1e-5 of it; with a norm,
# gain, bias or factor that is not as assumed, they differ by 1e-2 or more.
TOLERANCE = 1e-3


def differences(of: Float[Tensor, " token *others"]) -> Float[Tensor, " token *others"]:
    """Return the differences from the mean over tokens, without what all tokens share."""
    return of - of.mean(dim=0)


def directions(of: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return vectors divided by their norms."""
    return of / torch.linalg.vector_norm(of, dim=-1, keepdim=True)


def close(own: Float[Tensor, "*shape"], made: Float[Tensor, "*shape"]) -> bool:
    """Return whether two computations of the same numbers agree; False unless both are finite."""
    scale = own.abs().max()
    # Two tensors of zeros show nothing, and NaN makes the comparison False.
    return bool(((own - made).abs().max() <= TOLERANCE * scale) & (scale > 0))


def proportional(own: Float[Tensor, "*shape"], made: Float[Tensor, "*shape"]) -> bool:
    """Return whether two tensors agree up to one positive factor."""
    # The least-squares factor; a sign would turn attention round, hence positive only.
    factor = (own * made).sum() / made.square().sum()
    return bool(factor > 0) and close(own, factor * made)
