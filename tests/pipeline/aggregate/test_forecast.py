"""Forecasts on planted sweeps whose answers are known, and their blindness to the future."""

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.backtest import (
    LEAKY_TRENDS,
    TRENDS,
    VALUES,
    Prefix,
    backtest,
    default_predictors,
)
from pipeline.aggregate.forecast import (
    Observed,
    forecast,
    forecast_of,
    leaky_logit_component,
    logit_component,
    now,
    others_mean,
    reach,
    regression_on,
    trend_of,
    value_regression,
)
from pipeline.aggregate.logit_components import component_scores, logit_gram
from pipeline.aggregate.outcomes import outcomes
from pipeline.aggregate.scoring import BETTER, TOO_FEW
from pipeline.aggregate.threshold import ProgressMeasure
from pipeline.errors import InputError
from tests.benchmarks import forecast as benchmark
from tests.pipeline.aggregate.planted_sweeps import STEPS, planted, sweep, with_gram

GINI = ProgressMeasure("gini_embedding", rises=True)
SIX = [200, 300, 400, 500, 700, 900]
TIMES = [200, 300, 400, 500, 600, 700, 800, 900]
RUN = planted(500)
OTHERS = sweep([200, 400, 800])


def complete(times: list[int], seed: int = 0) -> dict[str, xr.Dataset]:
    """Return runs with every variable that the default predictors read, the others noise."""
    generator = np.random.default_rng(seed)
    noise = {one.name for one in (*TRENDS, *LEAKY_TRENDS, *VALUES)}
    runs = {}
    for name, run in sweep(times).items():
        made = {n: ("step", generator.uniform(1, 2, len(STEPS))) for n in noise - set(run)}
        run = run.assign(made).assign(train_share=1 / times[len(runs)])
        run["test_loss"] = run["test_loss"] * (1 + made["sum_of_squares"][1] / 10)
        runs[name] = with_gram(run, generator.normal(size=len(STEPS)).cumsum())
    return runs


def test_the_mean_of_others_by_hand():
    # After step 100 three are left: the cube root of 200 * 400 * 800.
    assert forecast(RUN, 100, OTHERS, others_mean()) == pytest.approx(400)
    # After step 300, two: sqrt(400 * 800). After 900 none: the next checkpoint.
    assert forecast(RUN, 300, OTHERS, others_mean()) == pytest.approx(320_000**0.5)
    assert forecast(RUN, 900, OTHERS, others_mean()) == 910


def test_now_is_the_next_checkpoint():
    assert forecast(RUN, 300, OTHERS, now()) == 310


def test_a_power_law_in_a_setting_is_found():
    runs = {
        n: r.assign(share=1 / t) for (n, r), t in zip(OTHERS.items(), (200, 400, 800), strict=True)
    }
    own = RUN.assign(share=1 / 500)
    assert forecast(own, 100, runs, regression_on("share")) == pytest.approx(500)
    # A step that has passed is not predicted.
    assert forecast(own, 700, runs, regression_on("share")) == 710


def test_equal_settings_give_no_forecast():
    runs = {name: run.assign(share=0.5) for name, run in OTHERS.items()}
    assert np.isnan(forecast(RUN.assign(share=0.5), 100, runs, regression_on("share")))


def test_a_line_is_continued_to_the_level_of_others():
    assert forecast(RUN, 100, OTHERS, trend_of(GINI)) == pytest.approx(500)


def test_spikes_do_not_move_a_trend():
    spiked = RUN.copy(deep=True)
    spiked["gini_embedding"][[12, 17]] = 50.0
    assert forecast(spiked, 200, OTHERS, trend_of(GINI)) == pytest.approx(500)


def test_values_give_the_step_if_they_determine_it():
    # log step = 1 + 2 * value at step 100.
    runs = {
        name: run.assign(gini_embedding=("step", np.full(101, (np.log(time) - 1) / 2)))
        for (name, run), time in zip(
            (OTHERS | {"own": RUN}).items(), (200, 400, 800, 500), strict=True
        )
    }
    own = runs.pop("own")
    assert forecast(own, 100, runs, value_regression(GINI)) == pytest.approx(500)
    # At step 300 only two of the others have yet to generalise.
    assert np.isnan(forecast(own, 300, runs, value_regression(GINI)))


def test_a_prefix_without_checkpoints_gives_no_trend():
    later = RUN.isel(step=slice(5, None))
    assert np.isnan(forecast(later, 20, OTHERS, trend_of(GINI)))
    assert np.isnan(forecast(later, 20, OTHERS, value_regression(GINI)))
    assert forecast(later, 20, OTHERS, others_mean()) == pytest.approx(400)


def test_where_a_line_reaches_a_level():
    steps = np.arange(0.0, 110.0, 10.0)
    assert reach(steps, 0.01 * steps, 2.0, rises=True) == pytest.approx(200)
    assert reach(steps, 5 - 0.01 * steps, 2.0, rises=False) == pytest.approx(300)
    assert reach(steps, -0.01 * steps, 2.0, rises=True) == np.inf
    assert reach(steps, np.ones(11), 2.0, rises=True) == np.inf
    assert reach(steps, 0.01 * steps, 0.5, rises=True) == 100
    assert np.isnan(reach(steps[:2], 0.01 * steps[:2], 2.0, rises=True))
    assert np.isnan(reach(steps, np.full(11, np.nan), 2.0, rises=True))


@pytest.mark.parametrize("predictor", default_predictors(["train_share"]), ids=lambda p: p.name)
def test_the_future_does_not_change_a_forecast(predictor):
    """Only leaky predictors may notice that a run goes on differently after the prefix."""
    runs = complete(TIMES)
    own = runs.pop("at-600")
    future = own.copy(deep=True)
    late = future["step"].values > 300
    for name in ("train_loss", "test_loss", *{one.name for one in (*TRENDS, *VALUES)}):
        future[name][late] = future[name].values[late][::-1] * 1.7
    changed = with_gram(future, np.where(late, -5.0 * STEPS, STEPS % 70))["logit_gram"].values
    kept = ~late
    original = with_gram(future, STEPS % 70)["logit_gram"].values
    assert (changed[np.ix_(kept, kept)] == original[np.ix_(kept, kept)]).all()
    before = forecast(
        own.assign(logit_gram=(("step", "other_step"), original)), 300, runs, predictor
    )
    after = forecast(
        future.assign(logit_gram=(("step", "other_step"), changed)), 300, runs, predictor
    )
    if predictor.needs == ("logit_gram",) and predictor.leaky:
        assert before != after
    else:
        assert before == after
        assert not np.isnan(before)


def test_a_prefix_holds_nothing_of_the_future():
    run = complete(TIMES)["at-600"]
    cut = Observed.of(run, 300)
    assert cut.whole is None
    assert cut.series["step"].max() == cut.series["other_step"].max() == 300
    assert Observed.of(run, 300, leaky=True).whole is run


def test_components_are_those_of_the_singular_value_decomposition():
    logits = np.random.default_rng(0).normal(size=(12, 40)) * np.arange(1, 41)
    for fitted in (2, 5, 12):
        mean = logits[:fitted].mean(axis=0)
        axis = np.linalg.svd(logits[:fitted] - mean, full_matrices=False)[2][0]
        expected = (logits - logits[0]) @ axis
        expected *= np.sign(expected[fitted - 1])
        np.testing.assert_allclose(
            component_scores(logits @ logits.T, fitted), expected, rtol=1e-8, atol=1e-8
        )


def test_undefined_components_are_nan():
    same = np.ones((6, 9))
    assert np.isnan(component_scores(same @ same.T, 6)).all()
    assert np.isnan(component_scores(np.eye(6), 1)).all()


def test_the_gram_matrix_is_the_same_in_blocks_and_with_dask(monkeypatch):
    monkeypatch.setattr("pipeline.aggregate.logit_components.BLOCK_BYTES", 7 * 8 * 5)
    values = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    plain = xr.DataArray(values, {"step": np.arange(7)}, ("step", "pair", "residue"))
    lazy = plain.copy(data=dask.array.from_array(values, chunks=(2, 3, 2)))
    flat = values.reshape(7, 12).astype(np.float64)
    for logits in (plain, lazy, plain.transpose("pair", "step", "residue")):
        np.testing.assert_allclose(logit_gram(logits), flat @ flat.T, rtol=1e-12)


def test_logits_on_a_line_give_the_step():
    runs = {f"at-{t}": with_gram(planted(t), STEPS / t) for t in (200, 400, 800)}
    own = with_gram(RUN, STEPS / 500)
    for predictor in (logit_component(), leaky_logit_component()):
        assert forecast(own, 150, runs, predictor) == pytest.approx(500)


def test_logits_that_turn_deceive_the_whole_run_alone():
    """Memorising moves the logits one way, generalising another: a prefix knows the first only."""
    generator = np.random.default_rng(1)
    first, second = np.linalg.qr(generator.normal(size=(30, 2)))[0].T

    def turned(time: int) -> xr.Dataset:
        early = np.minimum(STEPS / time, 0.5)
        logits = early[:, None] * first + 10 * np.maximum(STEPS / time - 0.5, 0)[:, None] * second
        gram = logit_gram(xr.DataArray(logits, {"step": STEPS}, ("step", "pair")))
        return planted(time).assign(logit_gram=gram)

    finished, _ = outcomes({f"at-{t}": turned(t) for t in (200, 400, 800)})
    for predictor in (logit_component(), leaky_logit_component()):
        observed = Observed.of(turned(500), 100, predictor.leaky)
        found = forecast_of(observed, finished, predictor)
        assert (found == np.inf or found > 1000) is predictor.leaky


def test_the_backtest_of_a_planted_sweep():
    tested = backtest(sweep(TIMES), [others_mean(), now(), trend_of(GINI)])
    half = tested.sel(prefix="50% of the time")
    np.testing.assert_allclose(half["factor"].sel(predictor="trend of gini_embedding"), 1)
    # The prefix ends at half of the time, or a checkpoint of 10 steps before; now is 10 later.
    ends = np.floor(np.array(TIMES) / 20) * 10
    np.testing.assert_allclose(half["forecast"].sel(predictor="now"), ends + 10)
    assert half["verdict"].sel(predictor="trend of gini_embedding") == BETTER
    assert half["verdict"].sel(predictor="others' mean") == "the baseline"
    np.testing.assert_allclose(half["asked"], 8)


def test_runs_that_have_generalised_are_not_asked():
    tested = backtest(sweep(TIMES), [others_mean(), now()], [Prefix(400), Prefix(650)])
    np.testing.assert_array_equal(tested["asked"], [[5, 3], [5, 3]])
    assert np.isnan(tested["forecast"].sel(run="at-400")).all()
    assert tested["verdict"].sel(prefix="step 400", predictor="now") == TOO_FEW


def test_a_run_does_not_predict_itself():
    changed = sweep(TIMES) | {"at-900": planted(900, level=0.8)}
    before, after = (
        backtest(runs, [others_mean(), trend_of(GINI)]).sel(predictor="trend of gini_embedding")
        for runs in (sweep(TIMES), changed)
    )
    # Of the others, six generalise after step 200: at 300 to 800.
    mean = backtest(changed, [others_mean()]).isel(predictor=0).sel(run="at-900")
    assert mean["forecast"].sel(prefix="step 200") == pytest.approx(
        np.prod([300.0, 400, 500, 600, 700, 800]) ** (1 / 6)
    )
    # The others' levels are 0.4 in both; the run's own slope has doubled.
    assert before["factor"].sel(run="at-900", prefix="step 200") == pytest.approx(1)
    assert after["forecast"].sel(run="at-900", prefix="step 200") == pytest.approx(450)


def test_censored_runs_refute_forecasts_that_lie_within_them():
    runs = sweep(TIMES) | {"soon": planted(None, slope=1e-3), "late": planted(None, slope=1e-5)}
    tested = backtest(runs, [others_mean(), now(), trend_of(GINI)])
    at_200 = tested.sel(prefix="step 200")
    trend = at_200.sel(predictor="trend of gini_embedding")
    np.testing.assert_allclose(trend["censored_forecast"], [400, 40_000])
    assert trend["refuted"] == 1
    assert at_200.sel(predictor="now")["refuted"] == 2
    assert tested.attrs["runs_censored"] == 2
    # A share of a time that is not known is no prefix.
    assert (tested["censored_asked"].sel(prefix="50% of the time") == 0).all()


def test_forecasts_of_never_are_infinite_errors():
    runs = sweep(TIMES)
    runs["at-900"]["gini_embedding"] = -runs["at-900"]["gini_embedding"]
    one = backtest(runs, [others_mean(), trend_of(GINI)]).isel(predictor=1, prefix=0)
    assert one["worst_factor"] == np.inf
    assert one["median_factor"] == pytest.approx(1)


def test_predictors_without_their_variables_are_named():
    tested = backtest(sweep(TIMES), default_predictors(["train_share"]))
    assert "regression on train_share" in tested.attrs["left_out"]
    assert "trend of gini_embedding" not in tested.attrs["left_out"]
    with pytest.raises(InputError, match="the baseline"):
        backtest(sweep(TIMES), [regression_on("train_share"), now()])


def test_a_single_run_is_refused():
    with pytest.raises(InputError, match="1 of 1 runs generalised, expected at least 3"):
        backtest(sweep([300]), default_predictors())
    with pytest.raises(InputError, match="2 of 2 runs generalised"):
        forecast(RUN, 100, sweep([200, 400]), now())


def test_every_variable_has_a_unit_and_a_definition():
    for variable in backtest(sweep(TIMES), [others_mean(), now()]).data_vars.values():
        assert variable.attrs["units"] and variable.attrs["definition"].endswith(".")


@pytest.fixture(scope="module")
def tested() -> tuple[xr.Dataset, xr.Dataset]:
    extra = {"excluded_loss", "gini_neuron_logit", "sum_of_squares"}
    runs = complete(SIX) | {
        "never": complete([900], 1)["at-900"].assign(test_loss=RUN["train_loss"] + 5)
    }
    assert all(extra <= set(run) for run in runs.values())
    return benchmark.tables(runs)


def structure(page: str) -> list[tuple[str, int]]:
    """Return the first cell of each row of the tables, with the number of cells."""
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("|")]
    return [(row[0].strip(), len(row)) for row in rows]


def test_the_documented_tables_are_those_of_the_benchmark(tested):
    text = (Path(__file__).parents[3] / "docs" / "grokking.md").read_text()
    documented = text.partition("<!-- forecast -->\n")[2].partition("\n<!-- /forecast -->")[0]
    printed = benchmark.page(*tested)
    assert structure(documented) == structure(printed)
    for sentence in ("runs generalised, at steps", "Better than the baseline at no prefix:",
                     "would be expected"):  # fmt: skip
        assert sentence in documented and sentence in printed


def test_the_benchmark_prints_json(tested):
    found = json.loads(json.dumps(benchmark.as_json(*tested), allow_nan=False))
    assert (found["runs_generalised"], found["runs_censored"]) == (6, 1)
    assert len(found["thresholds"]) == tested[0].sizes["measure"]
    assert len(found["backtest"]) == tested[1].sizes["predictor"] * tested[1].sizes["prefix"]
    assert {"predictor", "prefix", "median_factor", "worst_factor", "verdict"} <= set(
        found["backtest"][0]
    )
