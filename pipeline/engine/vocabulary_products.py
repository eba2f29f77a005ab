"""Products of embeddings and unembeddings that are summed over the vocabulary."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.threads import in_threads

# Rows that are centred at a time: on a CPU those of a small model stay in its cache.
_ROWS = {"cpu": 1024, "cuda": 1 << 15}

# Parts that threads compute, whose number does not depend on the threads: so nor do the sums. The
# products of all parts have at most 1 / _SHARE of the numbers of `left`.
_MOST_PARTS, _SHARE = 16, 4


class VocabularyProduct(NamedTuple):
    """left^T right = centred + rows mean_left^T mean_right, with the means over the vocabulary.

    The means are in float64. Removing one of them from its matrix gives `centred` as well: the sum
    of what remains of the other is 0.
    """

    centred: Float[Tensor, "left right"]
    mean_left: Float[Tensor, " left"]
    mean_right: Float[Tensor, " right"]
    rows: int

    def between(
        self, before: Float[Tensor, "*batch n left"], after: Float[Tensor, "*batch right n"]
    ) -> Float[Tensor, "kind *batch n n"]:
        """Return before left^T right after, raw and centred, in float64.

        The product of the means is taken in float64: where it outweighs the rest, float32 would
        leave few digits of that.
        """
        dtype = self.centred.dtype
        centred = (before.to(dtype) @ self.centred @ after.to(dtype)).double()
        of_left = (before.double() @ self.mean_left)[..., :, None]
        of_right = (after.double().mT @ self.mean_right)[..., None, :]
        return torch.stack([centred + self.rows * of_left * of_right, centred])


class _Part(NamedTuple):
    """A part of the vocabulary: the product of its rows, less the means, and their sums."""

    product: Float[Tensor, "left right"]
    left: Float[Tensor, " left"]
    right: Float[Tensor, " right"]


def over_the_vocabulary(
    left: Float[Tensor, "vocabulary left"], right: Float[Tensor, "vocabulary right"]
) -> VocabularyProduct:
    """Return the product left^T right by its terms, from one pass over both.

    Of a matrix with itself (the same object), which is symmetric, a quarter is copied instead of
    computed.
    """
    same, rows = left is right, len(left)
    mean_left = left.mean(dim=0)
    mean_right = mean_left if same else right.mean(dim=0)

    def part_of(rows: slice) -> _Part:
        if same:
            return _square(left[rows], mean_left)
        return _product(left[rows], mean_left, right[rows], mean_right)

    parts = in_threads(part_of, _parts(left, right), left.device)
    centred = parts[0].product.double()
    for part in parts[1:]:
        centred += part.product
    # What is left of the means above, which are rounded to the dtype of the matrices.
    of_left = torch.stack([part.left for part in parts]).sum(dim=0) / rows
    of_right = torch.stack([part.right for part in parts]).sum(dim=0) / rows
    centred -= rows * torch.outer(of_left, of_right)
    return VocabularyProduct(
        centred.to(left.dtype), mean_left + of_left, mean_right + of_right, rows
    )


def _parts(
    left: Float[Tensor, "vocabulary left"], right: Float[Tensor, "vocabulary right"]
) -> list[slice]:
    rows = len(left)
    count = min(max(1, rows // (_SHARE * right.shape[1])), _MOST_PARTS)
    return [slice(*ends) for ends in pairwise(rows * i // count for i in range(count + 1))]


def _product(
    left: Float[Tensor, "row left"],
    mean_left: Float[Tensor, " left"],
    right: Float[Tensor, "row right"],
    mean_right: Float[Tensor, " right"],
) -> _Part:
    total = left.new_zeros(left.shape[1], right.shape[1])
    sum_left, sum_right = _zeros(mean_left), _zeros(mean_right)
    for of_left, of_right in zip(_split(left), _split(right), strict=True):
        of_left, of_right = of_left - mean_left, of_right - mean_right
        total.addmm_(of_left.mT, of_right)
        sum_left += of_left.sum(dim=0)
        sum_right += of_right.sum(dim=0)
    return _Part(total, sum_left, sum_right)


def _square(rows: Float[Tensor, "row n"], mean: Float[Tensor, " n"]) -> _Part:
    """Return the product of centred rows with themselves."""
    n, half = rows.shape[1], rows.shape[1] // 2
    total, sums = rows.new_zeros(n, n), _zeros(mean)
    for part in _split(rows):
        part = part - mean
        total[:half].addmm_(part[:, :half].mT, part)
        total[half:, half:].addmm_(part[:, half:].mT, part[:, half:])
        sums += part.sum(dim=0)
    total[half:, :half] = total[:half, half:].mT
    return _Part(total, sums, sums)


def _zeros(mean: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.zeros_like(mean, dtype=torch.float64)


def _split(matrix: Float[Tensor, "row width"]) -> tuple[Float[Tensor, "_ width"], ...]:
    return matrix.split(_ROWS["cuda" if matrix.is_cuda else "cpu"])
