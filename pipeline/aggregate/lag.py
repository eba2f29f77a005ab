"""The lag between two transitions, with an interval.

The interval of a lag follows from those of both places m, with ends l and u: its lower end is (Zou
and Donner 2008) m2 - m1 - sqrt((m2 - l2)^2 + (u1 - m1)^2), the upper one likewise. It supposes that
the errors of both are independent.
"""

from typing import NamedTuple

import numpy as np

from pipeline.aggregate.transitions import Transition


class Place(NamedTuple):
    """The step of an event with its 90% interval."""

    step: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Transition) -> "Place":
        """Return the midpoint of a transition."""
        low, high = found.midpoint_interval
        return cls(found.midpoint, low, high)

    def in_decades(self) -> "Place":
        """Return log10 of all."""
        step, low, high = (float(np.log10(one)) for one in self)
        return Place(step, low, high)


class Lag(NamedTuple):
    """The place of one event less that of another, with its interval."""

    apart: float
    low: float
    high: float


def lag_between(first: Place, second: Place) -> Lag:
    """Return second - first with its interval, in the unit of both."""
    apart = second.step - first.step
    below = np.hypot(second.step - second.low, first.high - first.step)
    above = np.hypot(second.high - second.step, first.step - first.low)
    return Lag(apart, float(apart - below), float(apart + above))
