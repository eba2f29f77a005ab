"""Thresholds of planted sweeps against arithmetic by hand, and the null against chance."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.outcomes import outcomes, series_of
from pipeline.aggregate.scoring import (
    BETTER,
    NOT_BETTER,
    TOO_FEW,
    WORSE,
    factor_of_error,
    median_interval,
    verdict,
)
from pipeline.aggregate.threshold import (
    CANNOT_TELL,
    COMMON,
    ProgressMeasure,
    calibrate,
    permutation_p,
)
from pipeline.errors import InputError
from tests.pipeline.aggregate.planted_sweeps import STEPS, planted, sweep

GINI = ProgressMeasure("gini_embedding", rises=True)
# Levels 0.4, 0.5 and 0.6 at steps 100, 200 and 400.
THREE = sweep([100, 200, 400], [0.4, 0.5, 0.6])


def test_thresholds_by_hand():
    found = calibrate(THREE, [GINI]).sel(measure="gini_embedding")
    np.testing.assert_allclose(found["level"], [0.4, 0.5, 0.6])
    assert found["threshold"] == pytest.approx(0.5)
    assert found["variation"] == pytest.approx(0.2)  # SD 0.1 over mean 0.5
    np.testing.assert_allclose(found["held_out_threshold"], [0.55, 0.5, 0.45])
    # 0.004 s > 0.55 from 140 on, 0.0025 s > 0.5 after 200, 0.0015 s > 0.45 after 300.
    np.testing.assert_array_equal(found["predicted"], [140, 210, 310])
    np.testing.assert_allclose(found["factor"], [1.4, 1.05, 400 / 310])
    assert found["median_factor"] == pytest.approx(400 / 310)
    assert found["worst_factor"] == pytest.approx(1.4)
    # Geometric means of the others: sqrt(200 * 400), sqrt(100 * 400), sqrt(100 * 200).
    np.testing.assert_allclose(found["baseline_factor"], [8**0.5, 1, 8**0.5])
    assert found["step_verdict"] == TOO_FEW


def test_a_run_has_no_part_in_its_own_threshold():
    changed = THREE | {"at-400": planted(400, level=0.9)}
    before, after = (calibrate(runs, [GINI])["held_out_threshold"][0] for runs in (THREE, changed))
    assert before[2] == after[2]
    assert before[0] != after[0]


def test_censored_runs_are_counted_and_calibrate_nothing():
    # One rises past 0.5 without generalising, the other does not rise.
    runs = THREE | {"past": planted(None, slope=0.6e-3), "flat": planted(None, slope=1e-6)}
    found = calibrate(runs, [GINI])
    assert found.attrs["runs_censored"] == 2
    assert list(found["censored"].values) == ["past", "flat"]
    assert found["censored_past"] == 1
    assert found["threshold"] == calibrate(THREE, [GINI])["threshold"]


def test_a_threshold_that_is_never_passed_is_an_infinite_error():
    runs = THREE | {"at-300": planted(300, level=0.1)}  # 0.33 at the last step
    found = calibrate(runs, [GINI])
    assert found["factor"].sel(run="at-300") == np.inf
    assert found["worst_factor"] == np.inf
    assert np.isfinite(found["median_factor"])


def test_crossings_before_memorisation_do_not_count():
    runs = {name: run.copy(deep=True) for name, run in THREE.items()}
    for run in runs.values():
        run["gini_embedding"][0] = 1.0
    np.testing.assert_array_equal(
        calibrate(runs, [GINI])["predicted"], calibrate(THREE, [GINI])["predicted"]
    )


def test_a_common_level_is_told_from_chance():
    runs = sweep([100, 150, 200, 300, 500, 700, 900], [0.40, 0.41, 0.39, 0.4, 0.42, 0.4, 0.38])
    found = calibrate(runs, [GINI])
    assert found["level_verdict"] == COMMON
    assert found["step_verdict"] == BETTER


def test_a_measure_that_hardly_changes_has_no_level():
    runs = sweep([100, 150, 200, 300, 500, 700, 900])
    generator = np.random.default_rng(0)
    for run in runs.values():
        run["gini_embedding"] = "step", 1 + 0.01 * generator.normal(size=len(STEPS))
    found = calibrate(runs, [GINI])
    assert found["variation"] < 0.02
    assert found["level_verdict"] == CANNOT_TELL


def test_false_alarms_of_common_levels():
    generator = np.random.default_rng(0)
    times = np.array([100, 150, 200, 300, 500, 700, 900])
    alarms = 0
    for _ in range(200):
        walks = generator.normal(size=(len(times), len(STEPS))).cumsum(axis=1)
        alarms += permutation_p(walks[:, times // 10]) < 0.05
    assert alarms <= 18  # 10 are expected; binomial probability of more than 18: 0.5%


def test_losses_are_compared_by_ratio():
    falling = ProgressMeasure("restricted_loss", rises=False, log=True)
    assert falling.scaled(np.array([1.0, np.e, 0.0, np.nan]))[:2] == pytest.approx([0, 1])
    assert np.isnan(falling.scaled(np.array([0.0, -1.0, np.nan]))).all()
    runs = sweep([100, 200, 400])
    for run, time in zip(runs.values(), (100, 200, 400), strict=True):
        run["restricted_loss"] = "step", 10.0 ** (-5 * STEPS / time)
    found = calibrate(runs, [falling])
    np.testing.assert_allclose(found["level"], 1e-5)
    np.testing.assert_array_equal(found["predicted"], [[110, 210, 410]])


def test_measures_that_are_missing_are_named():
    found = calibrate(THREE)
    assert found.attrs["left_out"] == ["excluded_loss", "gini_neuron_logit", "sum_of_squares"]
    assert list(found["measure"].values) == ["restricted_loss", "gini_embedding"]


def test_an_undefined_measure_is_nan():
    runs = {
        name: run.assign(gini_embedding=run["gini_embedding"] * np.nan)
        for name, run in THREE.items()
    }
    found = calibrate(runs, [GINI])
    for name in ("threshold", "variation", "median_factor", "worst_factor", "permutation_p"):
        assert np.isnan(found[name]).all(), name
    assert found["level_verdict"] == CANNOT_TELL


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_runs_are_refused(count):
    few = dict(list(THREE.items())[:count]) | {"never": planted(None, slope=1e-4)}
    with pytest.raises(InputError, match=rf"{count} of {count + 1} runs generalised.*at least 3"):
        calibrate(few)


def test_another_rule_is_used_throughout():
    def at_250(run: xr.Dataset) -> int | None:
        return None if run["gini_embedding"][25] < 0.4 else 250

    found = calibrate(THREE | {"x": planted(None, slope=2e-3)}, [GINI], rule=at_250)
    assert list(found["run"].values) == ["at-100", "at-200", "x"]
    assert set(found["generalised"].values) == {250}
    assert "caller" in found.attrs["rule"]


def test_order_of_steps_does_not_matter():
    shuffled = {name: run.isel(step=slice(None, None, -1)) for name, run in THREE.items()}
    xr.testing.assert_identical(calibrate(shuffled), calibrate(THREE))


def test_a_run_that_generalised_untrained_is_refused():
    with pytest.raises(InputError, match="x: generalised at step 0"):
        outcomes(THREE | {"x": planted(400).assign(test_loss=("step", np.zeros(len(STEPS))))})


def test_series_of_a_store_are_put_together():
    main = THREE["at-100"].assign(embedding_norm=(("step", "frequency"), np.ones((101, 3))))
    main = main.assign_coords(uri=("step", np.array(["x"] * 101, dtype=object)))
    norms = xr.Dataset({"sum_of_squares": ("step", STEPS[:50] * 1.0)}, {"step": STEPS[:50]})
    found = series_of({"modular_addition": main, "weight_norm": norms}, {"train_share": 0.3})
    assert set(found.data_vars) == {*THREE["at-100"].data_vars, "sum_of_squares", "train_share"}
    assert set(found.coords) == {"step"}
    assert found["sum_of_squares"][49] == STEPS[49]
    assert np.isnan(found["sum_of_squares"][50:]).all()


def test_every_variable_has_a_unit_and_a_definition():
    for variable in calibrate(THREE).data_vars.values():
        assert variable.attrs["units"] and variable.attrs["definition"].endswith(".")


def test_factors_of_error():
    found = factor_of_error(np.array([50.0, 200, 100, np.inf, np.nan]), np.full(5, 100.0))
    np.testing.assert_allclose(found, [2, 2, 1, np.inf, np.nan])


def test_the_interval_of_a_median_is_that_of_order_statistics():
    # Of 15 values, the 4th to the 12th hold the median with 96.5% (binomial).
    median, low, high = median_interval(np.arange(1.0, 16.0))
    assert (median, low, high) == (8, pytest.approx(4, abs=1), pytest.approx(12, abs=1))
    assert median_interval(np.array([1, 2, np.inf, np.inf, np.nan]))[2] == np.inf
    assert np.isnan(median_interval(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.5] * 8, BETTER),
        ([0.5] * 7 + [np.inf], BETTER),
        ([0.5, 1.5] * 4, NOT_BETTER),
        ([1.0] * 8, NOT_BETTER),
        ([1.5] * 7 + [np.nan], WORSE),
        ([np.inf] * 8, WORSE),
        ([0.5] * 5 + [np.nan] * 3, TOO_FEW),
    ],
)
def test_verdicts(ratios, expected):
    assert verdict(np.array(ratios)) == expected


def test_false_alarms_of_verdicts():
    """A regression of eleven log steps on noise, leaving one out, is no better than their mean."""
    generator, runs, better = np.random.default_rng(0), np.arange(11), 0
    for _ in range(300):
        x, y = generator.normal(size=(2, 11))
        errors = []
        for left_out in runs:
            kept = runs != left_out
            guess = np.polyval(np.polyfit(x[kept], y[kept], 1), x[left_out])
            errors.append(abs(guess - y[left_out]) - abs(y[kept].mean() - y[left_out]))
        better += verdict(np.exp(errors)) == BETTER
    assert better <= 15  # at most 2.5% are meant; binomial probability of more than 15: 0.5%
