"""Modular arithmetic: the table of a binary operation on the residues mod p, and its split.

Power et al. 2022 (arXiv 2201.02177), appendix A.1.1, names these operations; Nanda et al. 2023
(arXiv 2301.05217) analyse addition. Every operation here is a polynomial, so it is defined for all
pairs and any modulus, prime or not; division is left out, since it is undefined for 0.
"""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import Bool, Int

from pipeline.config.analysis import SplitGenerator
from pipeline.errors import InputError, suggestion

Residues = Int[np.ndarray, "..."]

_LARGEST_MODULUS = 2_048  # 4 million pairs, and 100 MB of tokens

OPERATIONS: dict[str, Callable[[Residues, Residues], Residues]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "x2_y2": lambda x, y: x**2 + y**2,
    "x2_xy_y2": lambda x, y: x**2 + x * y + y**2,
    "x2_xy_y2_x": lambda x, y: x**2 + x * y + y**2 + x,
    "x3_xy": lambda x, y: x**3 + x * y,
    "x3_xy2_y": lambda x, y: x**3 + x * y**2 + y,
}


def table(p: int, operation: str) -> tuple[Int[np.ndarray, "pair 3"], Int[np.ndarray, " pair"]]:
    """Return all p * p problems as tokens (a, b, '='), and the answers `operation(a, b) mod p`.

    Row a * p + b is the pair (a, b); the token '=' has id p, so the vocabulary has p + 1 ids.
    Raises InputError if p is below 3 or the operation is unknown.
    """
    check(p, operation)
    a, b = (grid.ravel() for grid in np.mgrid[:p, :p].astype(np.int64))
    return np.stack([a, b, np.full_like(a, p)], axis=1), OPERATIONS[operation](a, b) % p


def check(p: int, operation: str) -> None:
    """Raise InputError unless the table of `operation` mod p exists."""
    if operation not in OPERATIONS:
        raise InputError(
            f"there is no operation {operation!r}: {suggestion(operation, OPERATIONS)}"
        )
    if not 3 <= p <= _LARGEST_MODULUS:
        raise InputError(
            f"p = {p}: expected a modulus of at least 3 and at most {_LARGEST_MODULUS:,}"
        )


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
    answer = OPERATIONS[operation]
    same = np.arange(p * p)
    for swapped, sign_a, sign_b in product((False, True), (1, -1), (1, -1)):
        x, y = (b, a) if swapped else (a, b)
        x, y = sign_a * x % p, sign_b * y % p
        if np.array_equal(answer(x, y) % p, answer(a, b) % p):
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
