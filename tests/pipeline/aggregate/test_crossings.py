import math
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.aggregate.crossings import Change, first_crossing, largest_change

NAN = float("nan")


def series(values, steps=None):
    steps = range(0, 10 * len(values), 10) if steps is None else steps
    return xr.DataArray(np.array(values, float), dims="step", coords={"step": list(steps)})


# Few distinct values, so that ties, returns and exact hits on the threshold are common.
INF = float("inf")
VALUES = st.lists(st.sampled_from([-INF, -1.0, 0.0, 0.5, 0.5000001, 1.0, INF, NAN]), max_size=9)


def crossing_by_brute_force(values, steps, threshold, direction, stays):
    def past(value):
        beyond = value < threshold if direction == "below" else value > threshold
        return math.isfinite(value) and beyond

    for i, step in enumerate(steps):
        if past(values[i]) and (not stays or all(past(v) for v in values[i:])):
            return step
    return None


@settings(deadline=None)
@given(VALUES, st.sampled_from(["below", "above"]), st.booleans())
def test_first_crossing_is_that_of_a_plain_loop(values, direction, stays):
    steps = [7 * i for i in range(len(values))]
    wanted = crossing_by_brute_force(values, steps, 0.5, direction, stays)
    assert first_crossing(series(values, steps), 0.5, direction, stays=stays) == wanted


@settings(deadline=None)
@given(VALUES)
def test_largest_change_is_that_of_a_plain_loop(values):
    steps = [7 * i for i in range(len(values))]
    kept = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    best = None
    for (s0, v0), (s1, v1) in pairwise(kept):
        if v0 != v1 and (best is None or abs(v1 - v0) > abs(best.size)):
            best = Change(s0, s1, v0, v1)
    assert largest_change(series(values, steps)) == best


def test_a_value_on_the_threshold_is_not_past_it():
    assert first_crossing(series([1, 0.1, 0.1]), 0.1) is None
    assert first_crossing(series([0, 0.1, 0.1]), 0.1, "above") is None


def test_a_series_that_begins_past_the_threshold_crosses_at_once():
    assert first_crossing(series([0.05, 1, 0.05]), 0.1) == 0


def test_a_return_undoes_a_crossing_only_where_it_has_to_stay():
    there_and_back = series([1, 0.05, 1, 0.05, 0.01])
    assert first_crossing(there_and_back, 0.1) == 10
    assert first_crossing(there_and_back, 0.1, stays=True) == 30


def test_a_step_that_is_not_finite_is_never_past_the_threshold():
    assert first_crossing(series([NAN, NAN]), 0.1) is None
    assert first_crossing(series([1, NAN, 0.05, NAN, 0.05]), 0.1) == 20
    assert first_crossing(series([1, NAN, 0.05, NAN, 0.05]), 0.1, stays=True) == 40
    assert first_crossing(series([1, 0.05, 0.05, NAN]), 0.1, stays=True) is None
    assert first_crossing(series([0.1, INF, 1.0]), 0.5, "above", stays=True) == 20


def test_steps_are_taken_in_their_own_order():
    assert first_crossing(series([0.05, 1, 0.01], steps=[20, 10, 30]), 0.1) == 20
    assert largest_change(series([0.0, 5.0, 4.0], steps=[30, 10, 20])) == Change(20, 30, 4, 0)


def test_a_missing_step_joins_its_neighbours():
    assert largest_change(series([0, 1, NAN, 3])) == Change(10, 30, 1, 3)


def test_the_earliest_of_equal_moves_counts_and_a_constant_has_none():
    assert largest_change(series([0, 1, 0])) == Change(0, 10, 0, 1)
    assert largest_change(series([2, 2, 2])) is None
    assert largest_change(series([2])) is None
    assert largest_change(series([])) is None


def test_the_answers_are_plain_numbers():
    crossing = first_crossing(series([1.0, 0.0]), 0.5)
    change = largest_change(series([1.0, 0.0]))
    assert type(crossing) is int
    assert change is not None
    assert type(change.after) is int
    assert change.size == -1.0


def test_a_series_with_another_dimension_is_refused():
    with pytest.raises(ValueError, match="layer"):
        first_crossing(xr.DataArray(np.zeros((2, 3)), dims=("step", "layer")), 0.1)
