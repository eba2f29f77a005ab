"""Steps at which the variables of a group are not finite."""

import numpy as np
import xarray as xr
from jaxtyping import Bool

from pipeline.findings.number_format import at_steps, is_undefined

# Larger variables are not read for this, nor numbers of every token: groups also hold their means,
# which are finite only where the numbers are.
_MOST_NUMBERS = 2**20
_OF_TOKENS = {"sequence", "position"}

# In a variable over these dimensions a single non-finite number counts. Others (neurons,
# frequencies) have numbers that are undefined by definition at some steps: there a step counts only
# if all of its numbers are non-finite.
_EACH = {"step", "layer", "head", "parameter", "depth"}


def has_numbers(values: xr.DataArray) -> bool:
    """Return whether there is a finite number, so that there is something to draw."""
    return bool(np.isfinite(values.values).any())


def gaps_in(group: xr.Dataset) -> dict[str, list[str]]:
    """Return the variables that are not finite at some steps, by the text that names the steps.

    A number that is finite at no step is ignored where another one of its variable is finite: it is
    undefined by definition. A variable that is finite at no step is ignored where another one of
    its group is finite, or where the group states that it is undefined; the section of figures
    names those.
    """
    found: dict[str, list[str]] = {}
    every = group["step"].values
    checked = [name for name, values in group.data_vars.items() if _is_checked(values)]
    dead = {name for name in checked if not has_numbers(group[name])}
    for name in checked:
        if name in dead and (len(dead) < len(checked) or is_undefined(group, str(name))):
            continue
        steps = every[_broken(group[name])]
        if steps.size:
            found.setdefault(at_steps(steps, every), []).append(str(name))
    return found


def _is_checked(values: xr.DataArray) -> bool:
    if values.dtype.kind != "f" or "step" not in values.dims or set(values.dims) >= _OF_TOKENS:
        return False
    return 0 < values.size <= _MOST_NUMBERS


def _broken(values: xr.DataArray) -> Bool[np.ndarray, " step"]:
    """Return a mask of the steps at which a variable is not finite."""
    finite = np.isfinite(values.transpose("step", ...).values)
    finite = finite.reshape(len(finite), -1)
    # Without numbers that are finite at no step: they are undefined by definition.
    known = finite[:, finite.any(axis=0)]
    if not known.shape[1]:
        return np.ones(len(finite), dtype=bool)
    whole = known.all(axis=1) if set(values.dims) <= _EACH else known.any(axis=1)
    return np.logical_not(whole)
