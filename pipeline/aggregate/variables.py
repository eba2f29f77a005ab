"""Variables of results over checkpoints, described as those of measures are."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline import schema
from pipeline.errors import InputError

# Units of results, and the meaning of the dimensions that they have beside those of measures. Texts
# and counts have the unit 1.
UNITS: dict[str, str] = {
    **schema.UNITS,
    "degrees": "degrees of angle",
    "decades": "factors of ten: log10 of a ratio",
    "steps since origin": "optimizer steps since the origin that was asked for",
    "tokens since origin": "tokens since the origin that was asked for",
    "unit of the series": "the unit that the coordinate `unit` gives",
    "unit of the measure": "the unit of the variable that the coordinate `measure` names",
}
DIMENSIONS: dict[str, str] = {
    **schema.DIMENSIONS,
    "run": "name of a run",
    "event": "largest rise or fall of a series, or the first head with a pattern",
    "set": "runs that differ by their seed alone, or all",
    "series": "series of a run: a number over steps, or that of one layer or head",
    "transition": "transition of a series, in order of step",
    "checkpoint": "checkpoint of one of several runs",
    "component": "principal component, from 1, in order of its share of the variance",
    "of": "scores or loadings of a component",
    "feature": "feature of a token by which a component is explained",
    "window": "the whole trajectory, or one half of it",
    "pair": "pair of an early and a late token",
    "token": "token of a sequence, from 1",
    "bandwidth": "bandwidth of a local fit, in e-folds",
    "side": "before or after a step",
    "frequency_bin": "bin of tokens by their frequency",
    "repetition": "whether a token occurred before in its sequence",
    "measure": "progress measure",
    "predictor": "way to predict a step",
    "prefix": "part of a run from which its future is predicted",
    "censored": "name of a run that did not generalise",
    "other_step": "step of the second of two checkpoints",
}


def attributes(units: str, definition: str, references: str = "") -> dict[str, str]:
    """Return the attributes of a variable: its units, a definition of one sentence, its source."""
    made = {"units": units, "definition": definition}
    return {**made, "references": references} if references else made


def variable(
    dims: Sequence[str] | str, values: object, units: str, definition: str, references: str = ""
) -> xr.Variable:
    """Return a variable with its units, a definition of one sentence, and its source, if any."""
    return xr.Variable(dims, np.asarray(values), attributes(units, definition, references))


def input_digest(group: xr.Dataset) -> str | None:
    """Return the hash of the input that a group of a store was computed on, None where unknown."""
    return (group.attrs.get("input") or {}).get("digest")


def check_same_tokens(groups: Sequence[xr.Dataset]) -> None:
    """Raise InputError unless all groups were computed on the same tokens, by the input's hash."""
    digests = [input_digest(group) for group in groups]
    if len(groups) > 1 and (None in digests or len(set(digests)) > 1):
        shown = ", ".join(str(digest and digest[:16]) for digest in digests)
        raise InputError(
            "these runs are compared token by token, but were computed on different inputs "
            f"(hashes {shown}): analyse them with the same input"
        )
