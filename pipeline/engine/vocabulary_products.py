"""Products of embeddings and unembeddings that are summed over the vocabulary."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.threads import in_threads, threads_on

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

    def product_of(rows: slice) -> Float[Tensor, "left right"]:
        if same:
            return _square(left[rows], mean_left)
        return _product(left[rows], mean_left, right[rows], mean_right)

    threads = threads_on(left.device)
    ends = [len(left) * i // threads for i in range(threads + 1)]
    parts = [slice(*of) for of in pairwise(ends)]
    centred = torch.stack(in_threads(product_of, parts, left.device)).sum(dim=0)
    return VocabularyProduct(centred + len(left) * torch.outer(mean_left, mean_right), centred)


def _product(
    left: Float[Tensor, "row left"],
    mean_left: Float[Tensor, " left"],
    right: Float[Tensor, "row right"],
    mean_right: Float[Tensor, " right"],
) -> Float[Tensor, "left right"]:
    total = left.new_zeros(left.shape[1], right.shape[1])
    for of_left, of_right in zip(_split(left), _split(right), strict=True):
        total.addmm_((of_left - mean_left).mT, of_right - mean_right)
    return total


def _square(rows: Float[Tensor, "row n"], mean: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """Return the product of centred rows with themselves."""
    n, half = rows.shape[1], rows.shape[1] // 2
    total = rows.new_zeros(n, n)
    for part in _split(rows):
        part = part - mean
        total[:half].addmm_(part[:, :half].mT, part)
        total[half:, half:].addmm_(part[:, half:].mT, part[:, half:])
    total[half:, :half] = total[:half, half:].mT
    return total


def _split(matrix: Float[Tensor, "row width"]) -> tuple[Float[Tensor, "_ width"], ...]:
    return matrix.split(_ROWS["cuda" if matrix.is_cuda else "cpu"])
