"""Differences between the values of measures that were computed in two ways."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import xarray as xr

Arrays = Mapping[str, np.ndarray]


# Of the largest number of a measure: a variable without larger ones is 0 but for rounding.
NOTHING = 1e-6


def scale_of(values: Iterable[np.ndarray]) -> float:
    """Return the largest finite floating-point number, without its sign; 0 if there is none."""
    finite = (value[np.isfinite(value)] for value in values if value.dtype.kind == "f")
    return max((float(np.abs(of.astype(float)).max()) for of in finite if of.size), default=0.0)


def relative(found: np.ndarray, expected: np.ndarray, of_measure: float = 0.0) -> float:
    """Return the largest difference over the largest number expected; NaN if one alone is NaN.

    Of integers and truth values: the share that differs. of_measure: the largest number of the
    measure, to which differences of a variable relate that is 0 but for rounding.
    """
    if found.shape != expected.shape:
        return float("nan")
    if expected.dtype.kind != "f":
        return float((found != expected).mean()) if expected.size else 0.0
    if not (np.isfinite(found) == np.isfinite(expected)).all():
        return float("nan")
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    scale = scale_of([expected])
    if scale < NOTHING * of_measure:
        scale = of_measure
    largest = np.abs(found[finite].astype(float) - expected[finite]).max()
    return float(largest / scale) if scale else float(largest)


def is_worse(found: float, than: float) -> bool:
    """Return whether one difference is worse than another; NaN is worse than any number."""
    return not math.isnan(than) and not found <= than


def worst_of(differences: Iterable[float]) -> float:
    """Return the largest difference; NaN if one of them is, which `max` would pass over."""
    return float(np.max(list(differences)))


def values_of(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Return all variables of a store by "measure/variable"."""
    return {
        f"{group}/{name}": variable.values
        for group, node in tree.children.items()
        for name, variable in node.to_dataset().data_vars.items()
    }


def _by_measure(values: Arrays) -> dict[str, list[np.ndarray]]:
    of: dict[str, list[np.ndarray]] = {}
    for name, value in values.items():
        of.setdefault(name.split("/")[0], []).append(value)
    return of


def worst_by_measure(found: Arrays, expected: Arrays) -> Iterator[tuple[str, str, float, bool]]:
    """Yield measure, variable, difference and whether it is of integers, the worst of each kind.

    Raises ValueError where the variables are not the same.
    """
    if found.keys() != expected.keys() or not expected:
        raise ValueError(f"variables differ: {sorted(found.keys() ^ expected.keys())}")
    worst: dict[tuple[str, bool], tuple[str, float]] = {}
    largest = {of: scale_of(values) for of, values in _by_measure(expected).items()}
    for name, value in expected.items():
        key = (name.split("/")[0], value.dtype.kind != "f")
        difference = relative(found[name], value, largest[key[0]])
        if key not in worst or is_worse(difference, worst[key][1]):
            worst[key] = (name.split("/")[1], difference)
    for (measure, of_integers), (variable, difference) in worst.items():
        yield measure, variable, difference, of_integers
