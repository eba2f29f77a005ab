"""Intervals by hand, and verdicts on both sides of a rule."""

import math

import pytest

from pipeline.experiments.claims import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDECIDED,
    Above,
    Below,
    Between,
    Claim,
    Effect,
    finding,
)

CLAIM = Claim("a-claim", "Something is so.", "somebody")


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_is_that_of_student():
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3), t = 4.30265 for 2 degrees.
    mean, low, high = Effect("x", "1", by_seed(1, 2, 3)).mean_and_interval()
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)


def test_ratios_are_averaged_as_logarithms():
    found = Effect("x", "1", by_seed(0.5, 2.0), geometric=True).mean_and_interval()
    # Logarithms ± ln 2: standard error ln 2, t = 12.7062 for one degree.
    half = 12.7062 * math.log(2)
    assert found == pytest.approx((1.0, math.exp(-half), math.exp(half)), rel=1e-4)


def test_shares_have_the_interval_of_wilson():
    # All of 5: 5 / (5 + 1.96^2) to 1.
    found = Effect("x", "1", by_seed(1, 1, 1, 1, 1), is_share=True).mean_and_interval()
    assert found == pytest.approx((1.0, 5 / (5 + 1.959964**2), 1.0))


@pytest.mark.parametrize(
    ("values", "region", "verdict"),
    [
        ((1.9, 2.0, 2.1), Above(1.0), HOLDS),
        ((1.9, 2.0, 2.1), Above(3.0), DOES_NOT_HOLD),
        ((1.9, 2.0, 2.1), Above(2.0), UNDECIDED),
        ((1.9, 2.0, 2.1), Below(3.0), HOLDS),
        ((1.9, 2.0, 2.1), Below(1.0), DOES_NOT_HOLD),
        ((1.9, 2.0, 2.1), Below(2.1), UNDECIDED),
        ((1.9, 2.0, 2.1), Between(1.0, 3.0), HOLDS),
        ((1.9, 2.0, 2.1), Between(3.0, 4.0), DOES_NOT_HOLD),
        ((1.9, 2.0, 2.1), Between(0.0, 1.0), DOES_NOT_HOLD),
        ((1.9, 2.0, 2.1), Between(0.0, 2.0), UNDECIDED),
        ((0.0, 0.0, 0.0), Above(0.0), DOES_NOT_HOLD),  # the edge is outside
        ((1.0, 1.0), Below(1.0), DOES_NOT_HOLD),
        ((-2.0, 2.0, 6.0), Between(1.0, 3.0), UNDECIDED),  # the interval is wider than the region
    ],
)
def test_a_claim_is_judged_by_the_whole_interval(values, region, verdict):
    assert finding(CLAIM, Effect("x", "1", by_seed(*values)), region).verdict == verdict


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), "not tested with --quick"),
        ((2.0,), "one seed has no interval"),
        ((2.0, math.nan, 2.0), "undefined for seed 1"),
        ((2.0, math.inf, 2.0), "undefined for seed 1"),
    ],
)
def test_without_an_interval_nothing_is_decided(values, said):
    found = finding(CLAIM, Effect("x", "1", by_seed(*values)), Above(0.0), "measured")
    assert found.verdict == UNDECIDED
    assert found.found == (f"measured; {said}" if values else said)


@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_ratio_that_is_not_positive_is_undefined(value):
    effect = Effect("x", "1", by_seed(1.2, value, 1.3), geometric=True)
    found = finding(CLAIM, effect, Above(0.0))
    assert (found.verdict, found.found) == (UNDECIDED, "undefined for seed 1")
    assert math.isnan(found.mean)


def test_the_reason_for_no_values_is_said():
    found = finding(CLAIM, Effect("x", "1", {}), Above(0.0), why_empty="no run generalised")
    assert found.found == "no run generalised"


def test_the_rule_is_said():
    effect = Effect("x", "1", by_seed(1, 2))
    assert finding(CLAIM, effect, Above(0.9)).rule.endswith("is above 0.9")
    assert finding(CLAIM, effect, Below(0.9)).rule.endswith("is below 0.9")
    assert finding(CLAIM, effect, Between(0.8, 1.25)).rule.endswith("is between 0.8 and 1.25")
