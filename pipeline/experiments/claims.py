"""A claim, the effect that tests it over seeds, and the verdict by a rule that is fixed before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import stats

from pipeline.aggregate.step_share import wilson

Verdict = Literal["holds", "does not hold", "undecided"]
HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """Something that has been said of models. name: unique; source: who said it, and where."""

    name: str
    sentence: str
    source: str


class Region(Protocol):
    """The values of an effect for which a claim is true."""

    def verdict(self, low: float, high: float) -> Verdict:
        """Return the verdict on an interval from low to high."""
        ...

    def in_words(self) -> str:
        """Return the region as the end of a sentence, such as "above 0.9"."""
        ...


@dataclass(frozen=True)
class Between:
    """All values from `low` to `high`."""

    low: float
    high: float

    def verdict(self, low: float, high: float) -> Verdict:
        """Return "holds" for an interval inside, "does not hold" for one outside.

        The edges are outside.
        """
        if self.low < low and high < self.high:
            return HOLDS
        return DOES_NOT_HOLD if high <= self.low or low >= self.high else UNDECIDED

    def in_words(self) -> str:
        """Return the region in words."""
        return f"between {self.low:.3g} and {self.high:.3g}"


@dataclass(frozen=True)
class Above(Between):
    """All values above `low`."""

    high: float = math.inf

    def in_words(self) -> str:
        """Return the region in words."""
        return f"above {self.low:.3g}"


@dataclass(frozen=True)
class Below(Between):
    """All values below `high`."""

    def __init__(self, high: float) -> None:
        super().__init__(-math.inf, high)

    def in_words(self) -> str:
        """Return the region in words."""
        return f"below {self.high:.3g}"


@dataclass(frozen=True)
class Effect:
    """A number per seed. by_seed: the values; NaN where a seed's is undefined.

    unit: as in a store. geometric: they are ratios, whose mean is the geometric one, and which are
    undefined unless positive. is_share: they are 1 where something happened and else 0, so that the
    mean is a share.
    """

    name: str
    unit: str
    by_seed: Mapping[int, float]
    geometric: bool = False
    is_share: bool = False

    def undefined(self) -> list[int]:
        """Return the seeds whose value is undefined."""
        return [
            seed for seed, value in self.by_seed.items()
            if not math.isfinite(value) or (self.geometric and value <= 0)
        ]  # fmt: skip

    def mean_and_interval(self) -> tuple[float, float, float]:
        """Return the mean over seeds and its 95% interval by Student's t; NaN where undefined.

        A single seed has a mean and no interval. Of a ratio, those of the logarithms are taken; of
        a share, the interval of Wilson 1927.
        """
        values = np.array(list(self.by_seed.values()), dtype=float)
        if not len(values) or self.undefined():
            return math.nan, math.nan, math.nan
        if self.is_share:
            return (float(values.mean()), *wilson(int(values.sum()), len(values)))
        if self.geometric:
            values = np.log(values)
        mean, spread = float(values.mean()), math.nan
        if len(values) > 1:
            error = values.std(ddof=1) / math.sqrt(len(values))
            spread = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * error)
        found = (mean, mean - spread, mean + spread)
        return tuple(map(math.exp, found)) if self.geometric else found  # type: ignore[return-value]


@dataclass(frozen=True)
class Finding:
    """A verdict on a claim, with its numbers. found: more numbers, in a sentence."""

    claim: Claim
    effect: Effect
    mean: float
    low: float
    high: float
    verdict: Verdict
    region: Between
    found: str

    @property
    def rule(self) -> str:
        """The rule in words."""
        where = self.region.in_words()
        return f"the 95% interval of the mean over seeds is {where}"


def finding(
    claim: Claim, effect: Effect, holds: Between, found: str = "",
    why_empty: str = "not tested with --quick",
) -> Finding:  # fmt: skip
    """Judge a claim by an effect. why_empty: said instead of `found` where it has no values.

    It holds if the whole 95% interval over seeds is in the region, and does not hold if the whole
    interval is outside; else, and with fewer than two seeds or an undefined value, it is undecided.
    """
    mean, low, high = effect.mean_and_interval()
    undefined = sorted(effect.undefined())
    verdict: Verdict = UNDECIDED
    if not effect.by_seed:
        found = why_empty
    elif len(effect.by_seed) < 2:
        found = f"{found}; one seed has no interval".removeprefix("; ")
    elif undefined:
        named = ", ".join(map(str, undefined))
        found = f"{found}; undefined for seed {named}".removeprefix("; ")
    else:
        verdict = holds.verdict(low, high)
    return Finding(claim, effect, mean, low, high, verdict, holds, found)
