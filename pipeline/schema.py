"""Dimensions, units, and Variable: the declaration of a stored array."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

# A variable at one checkpoint, and all of them by name. NumPy's operations yield a number of type
# np.generic in place of an array without dimensions.
Value = np.ndarray | np.generic
Values = Mapping[str, Value]

# Every dimension that a variable may have, in one place, so that a name has the same meaning in
# every measure of a store and datasets can be merged along it.
DIMENSIONS: dict[str, str] = {
    "step": "optimizer steps taken when the checkpoint was saved",
    "sequence": "index of the sequence within its input",
    "position": "position t: the prediction of token t+1 from tokens 0..t",
    "layer": "transformer block, from 0",
    "depth": "blocks that the residual stream has passed; 0 is the embedding",
    "head": "attention head within its layer, from 0",
    "layer_from": "layer of the earlier head of a pair",
    "head_from": "the earlier head of a pair, within its layer",
    "layer_to": "layer of the later head of a pair",
    "head_to": "the later head of a pair, within its layer",
    "query": "position of the token that attends, from 0",
    "key": "position of the token that is attended to, from 0",
    "lag": "query position minus key position, in tokens",
    "frequency": "k of cos(2 pi k x / p), from 1 to (p - 1) / 2 (p / 2 where p is even)",
    "residue": "residue mod p, from 0",
    "pair": "a * p + b of the pair (a, b)",
    "irreducible": "irreducible representation of the permutations, by its partition",
    "neuron": "neuron of the MLP, from 0",
    "match_length": "tokens before the query that occurred before in the same order",
    "head_score": "name of a score that every head has",
    "subset": "heads that are ablated together: the sum of 2^i over them, i their place in `heads`",
    "ablated": "head that is ablated, such as L0H1: layer and head within it, from 0",
    "through": "keys, queries, values of later heads that an ablation acts by (k, q, v), or direct",
    "parameter": "name of a weight tensor, as in the checkpoint's model",
}

# Dimensions that the user's own measures have declared in this process. Kept apart from
# DIMENSIONS, so that a user's file cannot change the meaning of a packaged one.
_OWN_DIMENSIONS: dict[str, str] = {}


def declare_dimension(name: str, meaning: str) -> str:
    """Declare a dimension that is not in `DIMENSIONS`, for variables of a user's own measure.

    The size comes from the measure's `coordinates`. Returns the name; raises ValueError if the
    name is one of `DIMENSIONS`.
    """
    if name in DIMENSIONS:
        raise ValueError(f"the dimension {name!r} is {DIMENSIONS[name]!r}: take another name")
    _OWN_DIMENSIONS[name] = meaning
    return name


UNITS: dict[str, str] = {
    "1": "a pure number",
    "nats": "natural-log units of information, per predicted token",
    "tokens": "tokens",
    "steps": "optimizer steps",
}


@dataclass(frozen=True)
class Variable:
    """The declaration of one array of a measure: how it is stored, documented and queried.

    `dims` are names in `DIMENSIONS`, the first of them "step"; `unit` is a key of `UNITS`;
    `definition` is one sentence; `references` cites the paper (or code) that defines the quantity,
    as the CF attribute does. Raises ValueError for an unknown dimension or unit.
    """

    name: str
    dims: tuple[str, ...]
    unit: str
    definition: str
    references: str = ""
    dtype: Literal["float32", "float64", "int32", "int64"] = "float32"

    def __post_init__(self) -> None:
        if not self.dims or self.dims[0] != "step":
            raise ValueError(f"variable {self.name!r}: dims {self.dims} must begin with 'step'")
        if unknown := set(self.dims) - DIMENSIONS.keys() - _OWN_DIMENSIONS.keys():
            raise ValueError(f"variable {self.name!r}: unknown dimensions {sorted(unknown)}")
        if self.name in DIMENSIONS:
            raise ValueError(
                f"variable {self.name!r}: a dimension has that name, and its array too"
            )
        if self.unit not in UNITS:
            raise ValueError(f"variable {self.name!r}: unknown unit {self.unit!r}")
