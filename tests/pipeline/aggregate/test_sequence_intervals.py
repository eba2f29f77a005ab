"""Intervals from resampled sequences hold the population's transition, and widen a table's."""

import functools

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate import run_transitions
from pipeline.aggregate.sequence_intervals import sequence_intervals, sequence_series
from pipeline.aggregate.transitions import find_transitions
from tests.pipeline.aggregate.losses import as_group, sigmoid

STEPS = np.unique(np.geomspace(1, 100_000, 70).round().astype(int))
X = np.log10(STEPS)
MIDPOINT = 3.0  # log10 steps, of the population


def sequences_of(rng: np.random.Generator, spread: float, count: int = 30) -> np.ndarray:
    """Return series [step, sequence] that each fall at their own step, around step 1,000.

    Midpoints are symmetric in log steps, so that the population's mean falls at step 1,000.
    """
    midpoints = rng.normal(MIDPOINT, spread, count)
    curves = 4 - 2 * sigmoid(X[:, None], midpoints, 0.2)
    return curves + 0.05 * rng.standard_normal(curves.shape)


def test_intervals_hold_the_midpoint_of_the_population() -> None:
    rng = np.random.default_rng(0)
    sequence, residual, union = 0, 0, 0
    runs = 12
    for _ in range(runs):
        values = sequences_of(rng, spread=0.15)
        (found,) = find_transitions(STEPS, values.mean(axis=1))
        own = sequence_intervals(STEPS, values, [found], resamples=25).isel(transition=0)
        assert own["found_again"] > 0.9
        a, b = float(own["midpoint_low"]), float(own["midpoint_high"])
        c, d = found.midpoint_interval
        sequence += a <= 10**MIDPOINT <= b
        residual += c <= 10**MIDPOINT <= d
        union += min(a, c) <= 10**MIDPOINT <= max(b, d)
    # The residuals' interval knows nothing of which sequences were drawn.
    assert residual <= 0.5 * runs
    assert sequence >= 0.7 * runs and union >= 0.75 * runs


def test_alike_sequences_leave_the_interval_of_the_residuals() -> None:
    values = sequences_of(np.random.default_rng(1), spread=0.0)
    values += 0.05 * np.random.default_rng(2).standard_normal((len(STEPS), 1))
    (found,) = find_transitions(STEPS, values.mean(axis=1))
    own = sequence_intervals(STEPS, values, [found], resamples=30).isel(transition=0)
    assert np.log10(own["midpoint_high"] / own["midpoint_low"]) < np.log10(
        found.midpoint_interval[1] / found.midpoint_interval[0]
    )


def test_a_transition_of_few_sequences_is_not_found_again() -> None:
    values = 4 + 0.05 * np.random.default_rng(3).standard_normal((len(STEPS), 30))
    values[:, 0] -= 30 * sigmoid(X, MIDPOINT, 0.2)  # one sequence alone: absent from 1/e of draws
    (found,) = find_transitions(STEPS, values.mean(axis=1))
    own = sequence_intervals(STEPS, values, [found], resamples=60).isel(transition=0)
    assert float(own["found_again"]) == pytest.approx(1 - np.exp(-1), abs=0.2)


def test_a_single_sequence_has_no_interval() -> None:
    values = sequences_of(np.random.default_rng(4), 0.0, count=1)
    (found,) = find_transitions(STEPS, values.mean(axis=1))
    own = sequence_intervals(STEPS, values, [found])
    assert np.isnan(own["midpoint_low"]).all() and np.isnan(own["found_again"]).all()


def test_series_of_sequences_average_to_those_of_the_measure() -> None:
    losses = np.random.default_rng(5).random((4, 6, 8))
    losses[:, 1, 5:] = np.nan  # padding
    group = as_group(losses, steps=[3, 0, 1, 2])
    found = sequence_series(group)
    order = [1, 2, 3, 0]
    np.testing.assert_allclose(found["mean"].mean(axis=1), np.nanmean(losses, axis=(1, 2))[order])
    assert found["in_context_score"].shape == (4, 5)
    np.testing.assert_allclose(
        found["in_context_score"][:, 0], (losses[:, 0, 5] - losses[:, 0, 1])[order]
    )


def test_the_table_of_a_run_has_the_hull_of_both_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fewer = functools.partial(run_transitions.with_sequence_intervals, resamples=25)
    monkeypatch.setattr(run_transitions, "with_sequence_intervals", fewer)
    values = sequences_of(np.random.default_rng(6), spread=0.15)
    group = as_group(np.repeat(values[:, :, None], 8, axis=2), steps=STEPS)
    group = group.drop_vars("in_context_score").assign(mean=("step", values.mean(axis=1)))
    bare = group.drop_vars("loss")
    with_losses, without = (
        run_transitions.transitions_of(xr.DataTree.from_dict({"token_loss": of})).isel(
            series=0, transition=0
        )
        for of in (group, bare)
    )
    (found,) = find_transitions(STEPS, values.mean(axis=1))
    own = sequence_intervals(STEPS, values, [found], resamples=25).isel(transition=0)
    assert without["interval_from"] == "residuals" and np.isnan(without["found_again"])
    assert with_losses["interval_from"] == "sequences and residuals"
    assert with_losses["found_again"] == own["found_again"]
    for name in ("onset", "midpoint", "end", "amplitude"):
        low, high = f"{name}_low", f"{name}_high"
        assert float(with_losses[low]) == pytest.approx(min(float(own[low]), float(without[low])))
        assert float(with_losses[high]) == pytest.approx(
            max(float(own[high]), float(without[high]))
        )
        assert with_losses[name] == without[name]


def test_sequences_that_end_before_the_late_token_have_a_mean_and_no_score() -> None:
    group = as_group(np.ones((3, 2, 5)), early_late=(3, 6))
    assert list(sequence_series(group)) == ["mean"]
    assert "in_context_score" in sequence_series(as_group(np.ones((3, 2, 5)), early_late=(3, 5)))
