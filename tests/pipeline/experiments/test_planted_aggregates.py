"""Verdicts of experiments that judge by aggregates of runs, on planted losses or aggregates."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.backtest import Prefix, backtest
from pipeline.aggregate.forecast import (
    leaky_logit_component,
    logit_component,
    now,
    others_mean,
    trend_of,
)
from pipeline.aggregate.logit_components import component_scores
from pipeline.aggregate.step_share import ALL, RESAMPLED, SMOOTH, WALKS, WITH_PATTERN
from pipeline.aggregate.threshold import ProgressMeasure
from pipeline.experiments import first_axis, forecast, model_sizes, steps
from pipeline.experiments.claims import DOES_NOT_HOLD, HOLDS, UNDECIDED
from pipeline.experiments.runs import Run
from tests.pipeline.aggregate.losses import as_group
from tests.pipeline.aggregate.planted_sweeps import STEPS, planted, with_gram
from tests.pipeline.experiments.planted import (
    Groups,
    PlantedRuns,
    findings,
    noise,
    ramp,
    saved,
    scores_over,
    verdicts,
)

# By width: the slope of the loss by log steps before step 500 and after it, and the in-context
# score at the end.
Sizes = Mapping[int, tuple[float, float, float]]
SWAPPED: Sizes = {64: (-0.2, -0.4, -1.0), 96: (-0.3, -0.3, -1.5), 128: (-0.5, -0.1, -1.05)}
SWAPPED_BACK: Sizes = {64: (-0.5, -0.1, -1.0), 96: (-0.3, -0.3, -1.2), 128: (-0.2, -0.4, -1.5)}
NOT_SWAPPED: Sizes = {64: (-0.2, -0.1, -1.5), 96: (-0.9, -0.9, -1.2), 128: (-0.5, -0.4, -1.0)}
# The largest and the smallest do not differ on one side.
UNCLEAR: Sizes = {64: (-0.2, -0.3, -1.0), 96: (-0.9, -0.9, -1.0), 128: (-0.5, -0.3, -1.0)}
INSIDE = (450, 550)
BUMPS = dict.fromkeys(SWAPPED, INSIDE)


def size_rows(run: Run, sizes: Sizes, bumps: Mapping[int, tuple[float, float] | None]) -> Groups:
    """Return rows with these losses, and the rise of induction scores between two steps."""
    at, size = saved(run), run.training.model.hidden_size
    before, after, score = sizes[size]
    log = np.log(np.maximum(at, 1) / 500)
    rng = np.random.default_rng([run.training.seed, size])
    mean = 3 + before * np.minimum(log, 0) + after * np.maximum(log, 0)
    noisy = mean[:, None] + rng.normal(0, 0.003, (len(at), 16))
    group = as_group(noisy[:, :, None], at)
    group["in_context_score"] = ("step", np.where(at < 1200, 9.0, score * (1 + noise(run))))
    bump = bumps[size]
    heads = scores_over(at, {(1, 0): 0.5 if bump is None else ramp(at, *bump)})
    return {"token_loss": group, "head_scores": xr.Dataset({"induction": heads})}


@pytest.mark.parametrize(
    ("sizes", "bumps", "expected"),
    [
        (SWAPPED, BUMPS, [HOLDS, HOLDS]),
        (SWAPPED_BACK, BUMPS, [DOES_NOT_HOLD, HOLDS]),
        (NOT_SWAPPED, BUMPS, [DOES_NOT_HOLD, DOES_NOT_HOLD]),
        (UNCLEAR, BUMPS, [HOLDS, UNDECIDED]),
        # The bump of one size begins with the run, or ends with it, or never comes.
        (SWAPPED, BUMPS | {96: (0, 100)}, [HOLDS, UNDECIDED]),
        (SWAPPED, BUMPS | {64: (1000, 1200)}, [HOLDS, UNDECIDED]),
        *((SWAPPED, BUMPS | {size: None}, [HOLDS, UNDECIDED]) for size in SWAPPED),
    ],
)
def test_sizes_are_compared_on_both_sides_of_all_bumps(sizes, bumps, expected):
    runs = PlantedRuns(partial(size_rows, sizes=sizes, bumps=bumps), quick=False)
    assert verdicts(model_sizes.EXPERIMENT, runs) == expected


def test_the_change_of_the_in_context_score_by_hand():
    runs = PlantedRuns(partial(size_rows, sizes=SWAPPED_BACK, bumps=BUMPS))
    constant, _ = findings(model_sizes.EXPERIMENT, runs).values()
    assert list(constant.effect.by_seed.values()) == pytest.approx([0.5 / (3.7 / 3)] * 3)


def alike(mean: np.ndarray) -> np.ndarray:
    """Return losses of four tokens that change alike."""
    return mean[:, None] + np.array([0.0, 3.0, 1.0, 2.0])


def one_of_four(mean: np.ndarray) -> np.ndarray:
    """Return losses of which the first alone changes."""
    return np.stack([4 * mean, mean * 0 + 3, mean * 0 + 1, mean * 0 + 2], axis=1)


def opposed(mean: np.ndarray) -> np.ndarray:
    """Return losses of which two rise as the others fall, beside a small change of the mean."""
    wave = np.cos(np.arange(len(mean)))
    return 0.1 * alike(wave) + np.stack([mean, -mean, mean, -mean], axis=1)


# Verdicts on the place and on the change of all tokens; the squared cosine with an equal change.
SPACES = {
    alike: ([HOLDS, HOLDS], 1.0),
    one_of_four: ([HOLDS, DOES_NOT_HOLD], 0.25),
    opposed: ([DOES_NOT_HOLD, DOES_NOT_HOLD], 0.0),
}


@pytest.mark.parametrize(
    ("on_substrings", "on_text"), [(alike, one_of_four), (one_of_four, opposed), (opposed, alike)]
)
def test_the_first_axis_is_compared_with_the_mean_loss(on_substrings, on_text, monkeypatch):
    def rows(run: Run) -> Groups:
        at = saved(run)
        of_kind = on_text if run.training.task.kind == "text" else on_substrings
        losses = of_kind(np.exp(-at / (300 + 100 * noise(run))))[:, None]
        group = as_group(losses, at)
        group["mean"] = group["loss"].mean(("sequence", "position"))
        return {"token_loss": group.sortby("step", ascending=False)}

    runs = PlantedRuns(rows, quick=False)
    monkeypatch.setattr(first_axis.aggregates, "loss_space", runs.loss_space)
    found = list(findings(first_axis.EXPERIMENT, runs).values())
    expected = [SPACES[one] for one in (on_substrings, on_text)]
    assert [one.verdict for one in found] == [verdict for of, _ in expected for verdict in of]
    cosines = [found[i].effect.by_seed[0] for i in (1, 3)]
    assert cosines == pytest.approx([cosine for _, cosine in expected], abs=0.02)


@pytest.mark.parametrize(
    ("lowest", "share", "smooth", "walks", "expected", "above"),
    [
        (0.7, 0.8, 0.1, 0.5, [HOLDS, HOLDS], 0.3),
        (0.7, 0.8, 0.5, 0.1, [HOLDS, HOLDS], 0.3),
        (0.3, 0.8, 0.1, 0.5, [DOES_NOT_HOLD, HOLDS], 0.3),
        (0.7, 0.8, 0.1, 0.9, [HOLDS, DOES_NOT_HOLD], -0.1),
        (0.7, 0.8, 0.9, 0.1, [HOLDS, DOES_NOT_HOLD], -0.1),
    ],
)
def test_steps_are_judged_by_their_lowest_share_and_by_both_nulls(
    lowest, share, smooth, walks, expected, above, monkeypatch
):
    seeds = []

    def shares(run: xr.DataTree, *, seed: int) -> xr.Dataset:
        seeds.append((seed, int(run["of"]["seed"])))
        kinds = ["series", SMOOTH, WALKS, RESAMPLED]
        differing = 0.01 * np.sin(seed)
        of_shares = np.array([[share + differing, smooth, walks, 0.95], [0.0] * 4])
        of_lowest = np.array([[lowest + differing, 0.6, 0.6, 0.6], [0.5] * 4])
        return xr.Dataset(
            {"share": (("which", "kind"), of_shares), "lowest": (("which", "kind"), of_lowest)},
            {"which": [ALL, WITH_PATTERN], "kind": kinds},
        )

    monkeypatch.setattr(steps, "step_shares", shares)
    runs = PlantedRuns(lambda run: {"of": xr.Dataset({"seed": run.training.seed})})
    most, beyond = findings(steps.EXPERIMENT, runs).values()
    assert [most.verdict, beyond.verdict] == expected
    assert (most.effect.by_seed[0], beyond.effect.by_seed[0]) == pytest.approx((lowest, above))
    assert seeds == [(0, 0), (1, 1), (2, 2)]  # null series of each run are drawn anew


OF_EACH = ["baseline", "now", *(claim.name for claim in forecast.EXPERIMENT.claims)]
SHORT = [name.removeprefix("forecast-") for name in OF_EACH]
# Errors as factors: all claims hold of them.
ERRORS = {"baseline": 2.0, "now": 3.0, "whole-run": 1.2, "prefix": 1.8, "restricted": 1.3,
          "gini": 1.4, "norm": 1.5}  # fmt: skip


def asked(monkeypatch: pytest.MonkeyPatch, errors: Callable[[int], Mapping[str, float]]) -> dict:
    """Return findings of forecasts with these errors of each run."""

    def made(runs: Mapping[str, int]) -> xr.DataArray:
        values = [[errors(i)[name] for i in runs.values()] for name in SHORT]
        return xr.DataArray(values, {"of": OF_EACH, "run": list(runs)}, ("of", "run"))

    numbers = iter(range(100))
    monkeypatch.setattr(forecast, "_series", lambda result: next(numbers))
    monkeypatch.setattr(forecast, "_errors", made)
    return findings(forecast.EXPERIMENT, PlantedRuns(lambda run: {}))


def varied(errors: Mapping[str, float], i: int) -> dict[str, float]:
    """Return errors that differ a little between runs and claims."""
    return {
        name: one * (1 + 0.01 * np.sin(i + 2 * k)) for k, (name, one) in enumerate(errors.items())
    }


@pytest.mark.parametrize(
    ("changed", "refuted"),
    [
        ({}, set()),
        ({"baseline": 1.0}, {"whole-run", "restricted", "gini", "norm"}),
        ({"whole-run": 1.9}, {"prefix"}),
        ({"whole-run": 2.2, "prefix": 2.5}, {"whole-run"}),
        ({"prefix": 1.1}, {"prefix"}),
        ({"restricted": 2.5}, {"restricted"}),
        ({"gini": 2.5}, {"gini"}),
        ({"norm": 2.5}, {"norm"}),
    ],
)
def test_forecasts_are_compared_with_the_mean_of_others_or_the_whole_run(
    changed, refuted, monkeypatch
):
    found = asked(monkeypatch, lambda i: varied(ERRORS | changed, i))
    assert {name for name, one in found.items() if one.verdict == DOES_NOT_HOLD} == {
        f"forecast-{name}" for name in refuted
    }
    assert UNDECIDED not in {one.verdict for one in found.values()}


def test_forecasts_are_averaged_by_seed_over_the_runs_that_have_one(monkeypatch):
    # Nine runs, of seeds 0, 1, 2, 0, ...: the errors of seed 0 are 1 and 2.
    restricted_errors = [1, np.nan, 3, 2, np.nan, 3, np.nan, 7, 3]

    def errors(i: int) -> dict[str, float]:
        return ERRORS | {
            "baseline": 1.0,
            "now": 2.0 if i % 2 else 8.0,
            "restricted": restricted_errors[i],
            "gini": np.nan if i % 3 == 2 else 2.0,
            "norm": np.nan,
        }  # fmt: skip

    found = asked(monkeypatch, errors)
    restricted = found["forecast-restricted"]
    assert dict(restricted.effect.by_seed) == pytest.approx({0: 2**0.5, 1: 7.0, 2: 3.0})
    assert "over 6 of 9 runs" in restricted.found
    soonest = (2**4 * 8**5) ** (1 / 9)
    assert f"at once has {soonest:.2f} of the error" in restricted.found
    assert dict(found["forecast-gini"].effect.by_seed) == pytest.approx({0: 2.0, 1: 2.0})
    norm = found["forecast-norm"]
    assert (norm.verdict, norm.found) == (UNDECIDED, "no run generalised that has a forecast")


def test_errors_of_a_forecast_are_those_of_its_predictor():
    rng = np.random.default_rng(0)
    names = ("restricted_loss_own_keys", "gini_neuron_logit", "sum_of_squares")
    runs = {}
    for time in (200, 400, 900):
        made = {name: ("step", rng.uniform(1, 2, len(STEPS)).cumsum()) for name in names}
        made["sum_of_squares"] = ("step", -made["sum_of_squares"][1])
        walk = rng.normal(size=len(STEPS)).cumsum()
        runs[str(time)] = with_gram(planted(time).assign(made), walk)
    by_name = {
        "baseline": others_mean(),
        "now": now(),
        "forecast-whole-run": leaky_logit_component(),
        "forecast-prefix": logit_component(),
        "forecast-restricted": trend_of(ProgressMeasure(names[0], rises=False, log=True)),
        "forecast-gini": trend_of(ProgressMeasure(names[1], rises=True)),
        "forecast-norm": trend_of(ProgressMeasure(names[2], rises=False)),
    }
    found = forecast._errors(runs)
    factors = backtest(runs, list(by_name.values()), [Prefix(0.5, share=True)])["factor"]
    factors = factors.isel(prefix=0).clip(max=10)
    assert list(found["of"].values) == list(by_name)
    for name, predictor in by_name.items():
        of_name = factors.sel(predictor=predictor.name).values
        assert found.sel(of=name).values == pytest.approx(of_name, nan_ok=True), name


def test_series_of_a_run_have_the_names_that_predictors_read():
    at = np.array([0, 10, 20])
    logits = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    groups = {
        "modular_addition": xr.Dataset(
            {"gini_neuron_logit": ("step", [0.1, 0.2, 0.3]), "test_loss": ("step", [5.0, 4, 3]),
             "restricted_loss": ("step", [9.0, 9, 9])}, {"step": at}),
        "weight_norm": xr.Dataset({"sum_of_squares": ("step", [7.0, 8, 9])}, {"step": at}),
        "table_logits": xr.Dataset(
            {"restricted_loss_own_keys": ("step", [3.0, 2, 1]),
             "logits": (("step", "pair"), logits)}, {"step": at}),
    }  # fmt: skip
    (result,) = PlantedRuns(lambda run: groups).results([Run(forecast.modular(), {})])
    series = forecast._series(result)
    assert series["restricted_loss_own_keys"].values.tolist() == [3, 2, 1]
    assert series["sum_of_squares"].values.tolist() == [7, 8, 9]
    assert series["gini_neuron_logit"].values.tolist() == [0.1, 0.2, 0.3]
    scores = component_scores(series[forecast.GRAM].values, 3)
    assert scores == pytest.approx([0, 5, 10])
