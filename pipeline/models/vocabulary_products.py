"""Products of embeddings and unembeddings that are summed over the vocabulary."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Rows that are centred at a time: on a CPU those of a small model stay in its cache.
_ROWS = {"cpu": 1024, "cuda": 1 << 15}


class VocabularyProduct(NamedTuple):
    """left^T right, and the same with the mean over the vocabulary removed from both.

    Removing it from one of them would give the same: the sum of what remains is 0.
    """

    raw: Float[Tensor, "left right"]
    centred: Float[Tensor, "left right"]


def over_the_vocabulary(
    left: Float[Tensor, "vocabulary left"], right: Float[Tensor, "vocabulary right"]
) -> VocabularyProduct:
    """Return the product left^T right, raw and centred, from one pass over both.

    The centred one is computed, and the raw one is its sum with V mean(left)^T mean(right): as a
    difference of two large ones it would lose digits. Of a matrix with itself (the same object),
    which is symmetric, a quarter is copied instead of computed.
    """
    same = left is right
    mean_left = left.mean(dim=0)
    mean_right = mean_left if same else right.mean(dim=0)
    centred = left.new_zeros(left.shape[1], right.shape[1])
    rows = _ROWS["cuda" if left.device.type == "cuda" else "cpu"]
    for of_left, of_right in zip(left.split(rows), right.split(rows), strict=True):
        a = of_left - mean_left
        if same:
            _add_square(centred, a)
        else:
            centred.addmm_(a.mT, of_right - mean_right)
    if same:
        half = _half(centred)
        centred[half:, :half] = centred[:half, half:].mT
    return VocabularyProduct(centred + len(left) * torch.outer(mean_left, mean_right), centred)


def _add_square(total: Float[Tensor, "n n"], rows: Float[Tensor, "row n"]) -> None:
    """Add rows^T rows to a total, without its lower left quarter."""
    half = _half(total)
    total[:half].addmm_(rows[:, :half].mT, rows)
    total[half:, half:].addmm_(rows[:, half:].mT, rows[:, half:])


def _half(square: Float[Tensor, "n n"]) -> int:
    return len(square) // 2
