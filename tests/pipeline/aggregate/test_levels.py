"""The rule of "formed", "memorised", "generalised" and "fell", on series made by hand."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.aggregate.levels import (
    FLANK,
    SPIKE,
    Stretch,
    carrying,
    first_past,
    longest_past,
    stays_past,
    stretches,
)
from pipeline.aggregate.transitions import Transition, find_transitions

NAN, INF = float("nan"), float("inf")


def series(values, steps=None):
    steps = range(0, 10 * len(values), 10) if steps is None else steps
    return xr.DataArray(np.array(values, float), dims="step", coords={"step": list(steps)})


def is_past(value, level, direction):
    return math.isfinite(value) and (value < level if direction == "below" else value > level)


def steps_by_hand(past):
    """Return the indices that count as past: those that are, and spikes between them.

    The rule once more, by marking: from left to right, each gap of up to SPIKE is filled if the
    marks before it, filled ones included, and the plain ones after it are FLANK times as many.
    """
    marked, i = list(past), 0
    while i < len(marked):
        if marked[i]:
            i += 1
            continue
        gap = i
        while gap < len(marked) and not past[gap]:
            gap += 1
        before = 0
        while i - before - 1 >= 0 and marked[i - before - 1]:
            before += 1
        after = 0
        while gap + after < len(past) and past[gap + after]:
            after += 1
        size = gap - i
        if before and size <= SPIKE and min(before, after) >= FLANK * size:
            marked[i:gap] = [True] * size
        i = gap
    return marked


# Few distinct values, so that ties, returns and exact hits on the level are common; long runs, so
# that spikes are.
VALUES = st.lists(
    st.tuples(st.sampled_from([-INF, 0.0, 0.5, 0.5000001, 1.0, INF, NAN]), st.integers(1, 12)),
    max_size=7,
).map(lambda runs: [value for value, count in runs for _ in range(count)])


@settings(max_examples=300)
@given(VALUES, st.sampled_from(["below", "above"]))
def test_stretches_are_those_of_a_plain_loop(values, direction):
    past = [is_past(value, 0.5, direction) for value in values]
    marked = steps_by_hand(past)
    found = stretches(series(values), 0.5, direction)
    covered = [
        any(s.first <= step and (s.last is None or step <= s.last) for s in found)
        for step in range(0, 10 * len(values), 10)
    ]
    assert covered == marked
    first = past.index(True) * 10 if any(past) else None
    assert first_past(series(values), 0.5, direction) == first
    stays = stays_past(series(values), 0.5, direction)
    if marked and marked[-1]:
        tail = len(marked) - next((i for i, m in enumerate(marked[::-1]) if not m), len(marked))
        assert stays == 10 * tail
    else:
        assert stays is None


def test_a_value_on_the_level_is_not_past_it():
    assert first_past(series([1, 0.1, 0.1]), 0.1) is None
    assert stays_past(series([0, 0.1, 0.1]), 0.1, "above") is None


def test_a_dip_that_comes_back_is_not_the_step_from_which_it_stays():
    there_and_back = series([1, 0.05, 1, 0.05, 0.05])
    assert first_past(there_and_back, 0.1) == 10
    assert stays_past(there_and_back, 0.1) == 30


def test_a_slingshot_does_not_move_the_step():
    """One checkpoint above is a spike with five below on either side, not with four."""
    assert stays_past(series([1, *[0] * 5, 9, *[0] * 5]), 0.1) == 10
    assert stays_past(series([1, *[0] * 5, 9, *[0] * 4]), 0.1) == 70
    assert stays_past(series([1, *[0] * 4, 9, *[0] * 5]), 0.1) == 60
    # Five in a row need 25 on either side; six are no spike.
    assert stays_past(series([1, *[0] * 25, *[9] * 5, *[0] * 25]), 0.1) == 10
    assert stays_past(series([1, *[0] * 40, *[9] * 6, *[0] * 40]), 0.1) == 470


def test_values_that_are_not_finite_are_not_past_a_level():
    assert first_past(series([NAN, NAN]), 0.1) is None
    assert stays_past(series([1, NAN, 0.05, NAN, 0.05]), 0.1) == 40
    assert stays_past(series([1, 0.05, 0.05, NAN]), 0.1) is None
    assert stays_past(series([0.1, INF, 1.0]), 0.5, "above") == 20


def test_the_stretch_that_lasts_to_the_end_comes_before_longer_ones():
    assert longest_past(series([1, 0, 0, 0, 0, 1, 1, 0]), 0.5) == Stretch(70, None)
    assert longest_past(series([1, 0, 0, 0, 1, 1, 0, 1]), 0.5) == Stretch(10, 30)
    assert longest_past(series([1, 0, 0, 1, 1, 0, 1, 1]), 0.5) is None


def test_order_of_rows_does_not_matter():
    assert stays_past(series([0.05, 1, 0.01], steps=[20, 10, 30]), 0.1) == 20


def test_several_dimensions_are_refused():
    with pytest.raises(ValueError, match="over step alone"):
        stays_past(xr.DataArray(np.zeros((2, 3)), dims=("step", "layer")), 0.1)


def planted(*rises, count=200):
    """Return a series with sigmoids at steps, each (step, amplitude), and little noise."""
    steps = np.arange(10, 10 * count + 1, 10)
    noise = 0.005 * np.random.default_rng(0).standard_normal(count)
    values = noise + sum(a / (1 + np.exp(-60 * np.log10(steps / at))) for at, a in rises)
    return series(values, steps)


@pytest.mark.parametrize(
    ("rises", "level", "midpoint"),
    [
        ([(600, 0.8)], 0.3, 600),
        ([(200, 0.1), (900, 0.6)], 0.3, 900),  # the first leaves it short of the level
        ([(200, 0.6), (900, 0.2)], 0.3, 200),  # the second begins past it
        ([(200, 0.6), (500, -0.6), (1300, 0.6)], 0.3, 1300),  # the last that takes it there
        ([(600, 0.2)], 0.3, None),
    ],
)
def test_the_transition_that_takes_a_series_past_a_level(rises, level, midpoint):
    one = planted(*rises)
    found = find_transitions(one["step"].values, one.values)
    assert len(found) == len(rises)
    carried = carrying(one, level, "above", found)
    if midpoint is None:
        assert carried is None
    else:
        assert carried is not None and carried.midpoint == pytest.approx(midpoint, rel=0.05)


def test_of_overlapping_transitions_one_carries():
    steps = np.arange(0, 2001, 25)
    values = 0.35 / (1 + np.exp(-(steps - 1078) / 15)) + 0.37 / (1 + np.exp(-(steps - 1195) / 40))
    ends = ((1031, 1078, 1128, 0.35), (1062, 1195, 1347, 0.37))
    found = [
        Transition(on, mid, end, (on, on), (mid, mid), (end, end), size, (size, size), 0.1, 50.0)
        for on, mid, end, size in ends
    ]
    one = xr.DataArray(values, {"step": steps}, ["step"])
    assert carrying(one, 0.3, "above", found) == found[0]
    assert carrying(one, 0.6, "above", found) == found[1]
