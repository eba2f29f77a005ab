"""The table of a binary operation, most of them on the residues mod p, and its split.

Power et al. 2022 (arXiv 2201.02177), appendix A.1.1, names these operations; Nanda et al. 2023
(arXiv 2301.05217) analyse addition, and Chughtai et al. 2023 (arXiv 2302.03025) permutations.
The polynomials are defined for all pairs and any modulus, prime or not; division is left out,
since it is undefined for 0.
"""

import random
from itertools import product

import numpy as np
from jaxtyping import Bool, Int

from pipeline.config.inputs import SplitGenerator
from pipeline.errors import InputError
from pipeline.inputs.operations import answers


def table(p: int, operation: str) -> tuple[Int[np.ndarray, "pair 3"], Int[np.ndarray, " pair"]]:
    """Return all p * p problems as tokens (a, b, '='), and their answers (see `answers`).

    Row a * p + b is the pair (a, b); the token '=' has id p, so the vocabulary has p + 1 ids.
    Raises InputError if p is below 3 or the operation is unknown.
    """
    labels = answers(p, operation).flatten()
    a, b = (grid.ravel() for grid in np.mgrid[:p, :p].astype(np.int64))
    return np.stack([a, b, np.full_like(a, p)], axis=1), labels


def split(
    p: int,
    train_share: float,
    seed: int,
    generator: SplitGenerator = "numpy",
    operation: str = "add",
) -> Bool[np.ndarray, " pair"]:
    """Return a mask of the train pairs: the first int(train_share * p * p) of a permutation.

    generator "numpy": that of `default_rng(seed)`. "random": Python's `random.seed(seed)` and
    `shuffle` of the pairs in row-major order, as in the code published with Nanda et al. 2023.
    "orbits": `default_rng(seed)` permutes the orbits of the pairs (see `orbits`), which for this
    one generator depend on the operation; they are train pairs until at least so many are. Raises
    InputError if either part is empty.
    """
    n_train = int(train_share * p * p)
    if not 0 < n_train < p * p:
        raise InputError(
            f"train_share = {train_share}: makes {n_train} of the {p * p} pairs train pairs, "
            "expected at least one train and one test pair"
        )
    if generator == "orbits":
        return _split_of_orbits(orbits(p, operation), n_train, seed)
    if generator == "numpy":
        order = np.random.default_rng(seed).permutation(p * p)
    else:
        order = list(range(p * p))
        random.Random(seed).shuffle(order)
    is_train = np.zeros(p * p, dtype=bool)
    is_train[order[:n_train]] = True
    return is_train


def orbits(p: int, operation: str) -> Int[np.ndarray, " pair"]:
    """Return a number for each pair, the same for pairs that are the same problem.

    These are the orbits under those maps among swapping a and b, and negating each mod p, that
    change no answer of the table: of addition (a, b) and (b, a), of x**2 + y**2 up to eight pairs.
    A model that has learned the symmetry knows the answer to a pair from another of its orbit.
    """
    a, b = (grid.ravel() for grid in np.mgrid[:p, :p])
    answer = answers(p, operation)
    same = np.arange(p * p)
    for swapped, sign_a, sign_b in product((False, True), (1, -1), (1, -1)):
        x, y = (b, a) if swapped else (a, b)
        x, y = sign_a * x % p, sign_b * y % p
        if np.array_equal(answer[x, y], answer[a, b]):
            same = np.minimum(same, x * p + y)
    return same


def _split_of_orbits(
    same: Int[np.ndarray, " pair"], n_train: int, seed: int
) -> Bool[np.ndarray, " pair"]:
    names, sizes = np.unique(same, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    count = int(np.searchsorted(sizes[order].cumsum(), n_train)) + 1
    if count == len(names):
        raise InputError(
            f"train_share: {n_train} of {len(same)} pairs leave no whole orbit to test: lower it"
        )
    return np.isin(same, names[order[:count]])
