"""Means over sequences with their standard errors, merged from blocks of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pipeline.aggregate.blocks import padding


@dataclass(frozen=True)
class SequenceMoments:
    """Counts, means and sums of squared deviations of sequences, by step and position."""

    count: Int[np.ndarray, " position"]
    mean: Float[np.ndarray, "step position"]
    squares: Float[np.ndarray, "step position"]

    @classmethod
    def of(cls, losses: Float[np.ndarray, "step sequence position"]) -> "SequenceMoments":
        """Return those of some sequences; padding does not count."""
        undefined = padding(losses)
        count = (~undefined).sum(axis=0)
        # Changed in place: a block in float64 is twice the size of its losses.
        values = losses.astype(np.float64)
        values[:, undefined] = 0.0
        with np.errstate(invalid="ignore"):
            mean = values.sum(axis=1) / np.maximum(count, 1)
            values -= mean[:, None]
            values[:, undefined] = 0.0
            squares = np.square(values, out=values).sum(axis=1)
        return cls(count, mean, squares)

    @classmethod
    def merged(cls, parts: Sequence["SequenceMoments"]) -> "SequenceMoments":
        """Return those of all parts (Chan et al. 1979)."""
        count = np.sum([part.count for part in parts], axis=0)
        weights = [part.count / np.maximum(count, 1) for part in parts]
        pairs = list(zip(parts, weights, strict=True))
        with np.errstate(invalid="ignore"):
            mean = np.sum([part.mean * weight for part, weight in pairs], axis=0)
            between = [part.count * (part.mean - mean) ** 2 for part in parts]
            squares = np.sum([part.squares for part in parts], axis=0) + np.sum(between, axis=0)
        return cls(count, np.where(count > 0, mean, np.nan), squares)

    @property
    def standard_error(self) -> Float[np.ndarray, "step position"]:
        """Of the means; NaN where there are fewer than two sequences."""
        several = np.where(self.count > 1, self.count, 2)
        error = np.sqrt(self.squares / (several - 1) / several)
        return np.where(self.count > 1, error, np.nan)
