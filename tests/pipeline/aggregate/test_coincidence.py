"""Lags between transitions, overlap of rates of change, and the permutation of heads."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.coincidence import APART, TOGETHER, UNKNOWN, coincidences
from pipeline.aggregate.head_places import head_midpoints, with_head_permutation
from pipeline.aggregate.lag import Place
from pipeline.aggregate.log_axis import log_steps
from pipeline.aggregate.multiple_tests import adjusted
from pipeline.aggregate.rates import POINTS, overlap_nulls, rate_of_change, shared_axis

STEPS = np.unique(np.geomspace(1, 100_000, 160).round().astype(int))
X = log_steps(STEPS)


def rise(at: float, seed: int, size: float = 1.0, steps: np.ndarray = STEPS) -> xr.DataArray:
    """Return a noisy series that rises at a step, by 10 to 90% within 0.16 decades."""
    noise = np.random.default_rng(seed).normal(0, 0.03, len(steps))
    return xr.DataArray(size / (1 + (at / np.maximum(steps, 0.1)) ** 12) + noise,
                        {"step": steps}, "step")  # fmt: skip


def test_intervals_of_a_lag_add_in_quadrature():
    # 3-4-5: the ends are 3 and 4 steps away from the midpoints.
    events = {"a": Place(100.0, 97.0, 103.0), "b": Place(200.0, 196.0, 204.0)}
    found = coincidences({}, events).isel(pair=0)
    assert float(found["lag_steps"]) == 100
    assert float(found["lag_steps_low"]) == pytest.approx(95)
    assert float(found["lag_steps_high"]) == pytest.approx(105)
    assert float(found["lag"]) == pytest.approx(np.log10(2))
    assert found["verdict"].item() == APART
    assert np.isnan(found["p_shift"]) and np.isnan(found["q"])


def test_unequal_sides_of_an_interval_are_kept_apart():
    events = {"a": Place(100.0, 99.0, 112.0), "b": Place(200.0, 195.0, 200.0)}
    found = coincidences({}, events).isel(pair=0)
    assert float(found["lag_steps_low"]) == pytest.approx(100 - 13)  # 5-12-13
    assert float(found["lag_steps_high"]) == pytest.approx(101)


def test_the_order_of_two_series_only_changes_the_sign_of_the_lag():
    series = {"a": rise(1000, 0), "b": rise(1300, 1)}
    one = coincidences(series).isel(pair=0)
    other = coincidences(dict(reversed(series.items()))).isel(pair=0)
    assert (one["first"].item(), other["first"].item()) == ("a", "b")
    assert float(other["lag"]) == pytest.approx(-float(one["lag"]))
    assert float(other["lag_low"]) == pytest.approx(-float(one["lag_high"]))
    assert float(other["overlap"]) == pytest.approx(float(one["overlap"]))


def test_planted_lags_are_found_and_judged():
    series = {"a": rise(1000, 0), "b": rise(1050, 1), "c": rise(4000, 2, -2.0),
              "flat": rise(1000, 3, 0.0)}  # fmt: skip
    found = coincidences(series)
    pairs = zip(found["first"].values, found["second"].values, strict=True)
    verdicts = dict(zip(pairs, found["verdict"].values, strict=True))
    assert verdicts == {("a", "b"): TOGETHER, ("a", "c"): APART, ("b", "c"): APART}
    assert found["lag"].values[1] == pytest.approx(np.log10(4), abs=0.03)
    assert found.attrs["left_out"] == {"flat": "none"}
    assert all(of.attrs["definition"] for of in found.data_vars.values())


def test_near_lags_without_a_null_are_not_called_together():
    events = {"corner": Place(1000.0, 990.0, 1010.0)}
    found = coincidences({"a": rise(1000, 0)}, events)
    assert found["verdict"].values.tolist() == [UNKNOWN]


def test_without_pairs_the_answer_is_empty():
    found = coincidences({"a": rise(1000, 0)})
    assert found.sizes["pair"] == 0 and set(found.attrs["places"]) == {"a"}


def test_series_over_different_schedules_are_compared():
    even = 25 * np.arange(4001)
    found = coincidences({"a": rise(3000, 0), "b": rise(3000, 1, steps=even)}).isel(pair=0)
    assert abs(float(found["lag"])) < 0.03 and found["verdict"].item() == TOGETHER


def test_rates_are_the_derivative_by_log_steps():
    x = shared_axis(STEPS, STEPS)
    assert len(x) == POINTS and (x[0], x[-1]) == pytest.approx((X[0], X[-1]))
    line = rate_of_change(STEPS, 3 * X, x)
    assert line[20:-20] == pytest.approx(3, rel=5e-3)
    slow = 1 / (1 + np.exp(-4 * (X - 2.5)))
    expected = 4 * np.exp(-4 * (x - 2.5)) / (1 + np.exp(-4 * (x - 2.5))) ** 2
    assert np.abs(rate_of_change(STEPS, slow, x) - expected)[20:-20].max() < 0.03


def test_gaps_and_order_of_steps_do_not_change_rates():
    values, x = rise(1000, 0).values, shared_axis(STEPS, STEPS)
    shuffled = np.random.default_rng(0).permutation(len(STEPS))
    expected = rate_of_change(STEPS, values, x)
    assert rate_of_change(STEPS[shuffled], values[shuffled], x) == pytest.approx(expected)
    gap = np.where(np.arange(len(STEPS)) == 20, np.nan, values)
    assert np.isfinite(rate_of_change(STEPS, gap, x)).all()


def test_the_null_of_shifts_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 40)).cumsum(axis=1)
    found, p, _ = overlap_nulls(first, second, 10, rng)

    def overlap(other: np.ndarray) -> float:
        a, b = np.abs(first) / np.abs(first).sum(), np.abs(other) / np.abs(other).sum()
        return sum(min(one, two) for one, two in zip(a, b, strict=True))

    assert found == pytest.approx(overlap(second))
    reached = sum(overlap(np.roll(second, k)) >= found - 1e-12 for k in range(1, 40))
    assert p == pytest.approx((1 + reached) / 40)


def test_overlap_is_1_with_itself_and_0_without_common_change():
    one, other = np.zeros((2, 50))
    one[10:15], other[30:35] = 1.0, -2.0
    rng = np.random.default_rng(0)
    assert overlap_nulls(one, 3 * one, 10, rng)[0] == pytest.approx(1)
    assert overlap_nulls(one, other, 10, rng)[:2] == pytest.approx((0, 1))
    assert np.isnan(overlap_nulls(one, np.zeros(50), 10, rng)).all()


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg():
    # By hand: 0.01 * 4 / 1; 0.02 * 4 / 2; 0.03 * 4 / 3; 0.5.
    found = adjusted(np.array([0.03, np.nan, 0.01, 0.5, 0.02]))
    assert found == pytest.approx([0.04, np.nan, 0.04, 0.5, 0.04], nan_ok=True)
    assert np.isnan(adjusted(np.array([np.nan]))).all()


def test_a_head_stands_out_among_the_midpoints_of_others():
    events = {"loss": Place(1000.0, 990.0, 1010.0), "head": Place(1100.0, 1090.0, 1110.0)}
    pairs = coincidences({}, events)
    midpoints = np.array([1100.0, 950.0, 1300.0, 10_000.0])  # 0.041, 0.022, 0.114 and 1 decades
    found = with_head_permutation(pairs, {"head"}, midpoints)
    assert float(found["p_heads"][0]) == 0.5 and float(found["near_share"][0]) == 0.5
    assert np.isnan(with_head_permutation(pairs, {"loss", "head"}, midpoints)["p_heads"]).all()
    assert np.isnan(with_head_permutation(pairs, {"head"}, midpoints[:0])["p_heads"]).all()


def test_midpoints_are_those_of_the_heads_that_change():
    scores = np.stack([rise(1000, 0).values, rise(5000, 1).values, rise(1000, 2, 0.0).values], 1)
    group = xr.Dataset({"induction": (("step", "layer", "head"), scores[:, None])},
                       {"step": STEPS, "layer": [0], "head": [0, 1, 2]})  # fmt: skip
    run = xr.DataTree.from_dict({"head_scores": group, "other": group})
    assert head_midpoints(run) == pytest.approx([1000, 5000], rel=0.05)
