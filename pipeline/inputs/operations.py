"""Binary operations on p elements, and the order in which one of them adds discrete logarithms."""

from collections.abc import Callable
from functools import lru_cache
from itertools import permutations
from math import factorial

import numpy as np
from jaxtyping import Int

from pipeline.errors import InputError, suggestion

LARGEST = 2_048  # elements: 4 million pairs, and 100 MB of tokens

Residues = Int[np.ndarray, "..."]
Table = Int[np.ndarray, "a b"]

POLYNOMIALS: dict[str, Callable[[Residues, Residues], Residues]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "x2_y2": lambda x, y: x**2 + y**2,
    "x2_xy_y2": lambda x, y: x**2 + x * y + y**2,
    "x2_xy_y2_x": lambda x, y: x**2 + x * y + y**2 + x,
    "x3_xy": lambda x, y: x**3 + x * y,
    "x3_xy2_y": lambda x, y: x**3 + x * y**2 + y,
}
RANDOM, COMPOSE = "random", "compose"
OPERATIONS = (*POLYNOMIALS, COMPOSE, RANDOM)


def answers(p: int, operation: str) -> Table:
    """Return the answer to every pair: c[a, b], from 0 to p - 1.

    Polynomials are taken mod p. "compose": the p = n! permutations of n elements, numbered in
    lexicographic order; the answer to (a, b) is the permutation that applies b first and then a.
    "random": residues drawn once and for all, each with probability 1 / p: labels that no rule
    gives, and so a control in which nothing but memorisation is possible.
    Raises InputError as `check` does.
    """
    check(p, operation)
    if operation == COMPOSE:
        return composition(degree(p))
    if operation == RANDOM:
        return np.random.default_rng(p).integers(p, size=(p, p))
    a, b = np.mgrid[:p, :p].astype(np.int64)
    return POLYNOMIALS[operation](a, b) % p


def check(p: int, operation: str) -> None:
    """Raise InputError unless there is a table of `operation` on p elements."""
    if operation not in OPERATIONS:
        raise InputError(
            f"there is no operation {operation!r}: {suggestion(operation, OPERATIONS)}"
        )
    if not 3 <= p <= LARGEST:
        raise InputError(f"p = {p}: expected a modulus of at least 3 and at most {LARGEST:,}")
    if operation == COMPOSE:
        degree(p)


def degree(p: int) -> int:
    """Return the n of p = n!. Raises InputError where p is no factorial."""
    found = {factorial(n): n for n in range(3, 7)}
    if p not in found:
        raise InputError(
            f"p = {p}: permutations of n elements are n! in number: expected one of {list(found)}"
        )
    return found[p]


def permutations_of(n: int) -> Int[np.ndarray, "permutation n"]:
    """Return all permutations of n elements in lexicographic order, as their images of 0 .. n-1."""
    return np.array(list(permutations(range(n))), dtype=np.int64)


@lru_cache(maxsize=4)
def composition(n: int) -> Table:
    """Return the number of the permutation i -> a(b(i)) for all numbers a and b."""
    images = permutations_of(n)
    places = n ** np.arange(n - 1, -1, -1)
    codes = images @ places  # ascending, as the order is lexicographic
    return np.searchsorted(codes, images[:, images] @ places)


@lru_cache(maxsize=32)
def elements_in_order(p: int, operation: str) -> tuple[int, ...] | None:
    """Return the elements x_0, x_1, ... on which the operation adds or subtracts indices mod n.

    "add" and "subtract": all residues, n = p. "multiply" with p prime: the nonzero residues as
    powers of the least primitive root g, x_i = g^i, n = p - 1, so that the index is the discrete
    logarithm; 0 has none. None for all others, which have no such order.
    """
    if operation in ("add", "subtract"):
        return tuple(range(p))
    if operation != "multiply":
        return None
    for root in range(2, p):
        powers = tuple(pow(root, i, p) for i in range(p - 1))
        # As many values as there are nonzero residues exist for a primitive root of a prime alone.
        if len(set(powers) - {0}) == p - 1:
            return powers
    return None
