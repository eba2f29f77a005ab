"""Variables of results over checkpoints, described as those of measures are."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline.errors import InputError


def variable(
    dims: Sequence[str] | str, values: object, units: str, definition: str, references: str = ""
) -> xr.Variable:
    """Return a variable with its units, a definition of one sentence, and its source, if any."""
    attributes = {"units": units, "definition": definition}
    if references:
        attributes["references"] = references
    return xr.Variable(dims, np.asarray(values), attributes)


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
