"""The one rule that decides whether a head has a pattern, for labels, findings, events and figures.

A head has a pattern where the excess of its score over its null reaches a threshold:

    score - null >= threshold

`HeadScores` defines the null of each pattern. Where score or null is NaN, so is the result.
"""

from typing import TypeVar

import numpy as np
import xarray as xr

THRESHOLD = 0.3  # share of a head's attention, above the null

# The null of each score of `head_scores`, by the name of its variable.
NULLS = {
    "previous_token": "uniform_null",
    "current_token": "uniform_null",
    "first_token": "uniform_null",
    "duplicate_token": "duplicate_token_null",
    "induction": "induction_null",
}

# The nulls in words, as sentences name them.
NULL_IN_WORDS = {
    "uniform_null": "what uniform attention gives to one key",
    "duplicate_token_null": "the same score at keys that match nothing, as far away",
    "induction_null": "the same score at keys that match nothing, as far away",
}

Numbers = TypeVar("Numbers", np.ndarray, xr.DataArray)


def has_pattern(excess: Numbers, threshold: float = THRESHOLD) -> Numbers:
    """Return 1.0 where an excess reaches the threshold, 0.0 where it does not, NaN for NaN."""
    return excess.__ge__(threshold) * 1.0 + excess * 0.0  # the product keeps NaN


def excess_of(scores: xr.Dataset, pattern: str) -> xr.DataArray | None:
    """Return a score of a `head_scores` group minus its null (dims: step, layer, head).

    None where the group was stored without its null, by an earlier version of the measure, or has
    no heads.
    """
    null = NULLS[pattern]
    if null not in scores or pattern not in scores:
        return None
    return (scores[pattern] - scores[null]).rename(pattern)


def threshold_of(labels: xr.Dataset | None) -> float:
    """Return the threshold with which a `head_labels` group was computed, or the default."""
    parameters = {} if labels is None else labels.attrs.get("parameters") or {}
    return float(parameters.get("threshold", THRESHOLD))
