"""The lag between two transitions, with an interval."""

import math
from typing import NamedTuple

from pipeline.aggregate.transitions import Interval, Transition


class Lag(NamedTuple):
    """How long after another a transition happened, in decades; negative where before it."""

    decades: float
    interval: Interval


def lag_between(one: Transition, other: Transition) -> Lag:
    """Return the lag of the midpoint of one transition behind that of another.

    interval: of 90%. The distances of the midpoints from the ends of their own 90% intervals are
    combined as independent errors are, by the root of the sum of their squares.
    """
    apart = math.log10(one.midpoint / other.midpoint)
    (low, high), (other_low, other_high) = (
        [math.log10(end / of.midpoint) for end in of.midpoint_interval] for of in (one, other)
    )
    return Lag(apart, (apart - math.hypot(low, other_high), apart + math.hypot(high, other_low)))
