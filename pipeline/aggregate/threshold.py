"""At which value of a progress measure does generalisation follow, and is it the same in all runs?

For each run that generalised, the level of a measure is its value at that step. The threshold of a
run is the median level of all OTHER runs, and it predicts the first step from memorisation on at
which the measure is past it; the error of that step is compared with the error of the baseline,
the geometric mean of the other runs' steps, which needs no measure.

Levels that hardly differ are no threshold if the measure hardly changes. The null therefore gives
each run the step of another, drawn by permutation: where the measure's values scatter as little at
such steps, its level says nothing about generalisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.levels import first_past
from pipeline.aggregate.outcomes import RULE, Outcome, Rule, generalised, outcomes
from pipeline.aggregate.scoring import VERDICT, factor_of_error, median_interval, verdict
from pipeline.aggregate.variables import attributes

COMMON = "common to the runs"
CANNOT_TELL = "cannot tell"
PERMUTATIONS = 2000
FALSE_ALARMS = 0.05  # of `COMMON` where the levels have nothing to do with generalisation


@dataclass(frozen=True)
class ProgressMeasure:
    """A variable that rises or falls as a run comes to generalise.

    log: differences between its values count as ratios (losses, which span decades).
    """

    name: str
    rises: bool
    log: bool = False

    def scaled(self, values: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """Return the values, or their logarithms; NaN for the logarithm of what is not positive."""
        if not self.log:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(values > 0, np.log(values), np.nan)


# Variables of the group `modular_addition`, and the sum of squares of `weight_norm`.
MEASURES = (
    ProgressMeasure("restricted_loss", rises=False, log=True),
    ProgressMeasure("excluded_loss", rises=True, log=True),
    ProgressMeasure("gini_embedding", rises=True),
    ProgressMeasure("gini_neuron_logit", rises=True),
    ProgressMeasure("sum_of_squares", rises=False),
)


def calibrate(
    runs: Mapping[str, xr.Dataset],
    measures: Sequence[ProgressMeasure] = MEASURES,
    rule: Rule = generalised,
) -> xr.Dataset:
    """Return the level of each measure at generalisation, and how well it predicts the step.

    runs: by name, each with the variables of the group `modular_addition` and the other measures
    over `step`; measures that some run lacks are named in the attribute `left_out`. The result has
    the dimensions `measure`, `run` (those that generalised) and `censored` (those that did not).
    Raises InputError for fewer than three runs that generalised.
    """
    finished, censored = outcomes(runs, rule)
    known = [one for one in measures if all(one.name in run for run in runs.values())]
    steps = np.array([one.time for one in finished])
    columns = [_of_measure(one, finished, censored, steps) for one in known]
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (dims, np.array([column[name] for column in columns]))
        for name, (dims, *_) in _VARIABLES.items()
        if name not in ("generalised", "baseline_factor")
    }
    data["generalised"] = (("run",), steps)
    data["baseline_factor"] = (("run",), factor_of_error(others_mean(steps), steps))
    result = xr.Dataset(
        data,
        {
            "measure": [one.name for one in known],
            "run": [one.name for one in finished],
            "censored": np.array([one.name for one in censored], dtype=object),
        },
        attrs={
            "rule": RULE if rule is generalised else "a rule of the caller's",
            "verdict": VERDICT,
            "left_out": [one.name for one in measures if one not in known],
            "runs_generalised": len(finished),
            "runs_censored": len(censored),
        },
    )
    for name, (_, units, definition) in _VARIABLES.items():
        result[name].attrs = attributes(units, definition)
    return result


def others_mean(steps: Float[np.ndarray, " run"]) -> Float[np.ndarray, " run"]:
    """Return for each run the geometric mean of the other runs' steps."""
    logs = np.log(steps)
    return np.exp((logs.sum() - logs) / (len(logs) - 1))


def _of_measure(
    measure: ProgressMeasure,
    finished: Sequence[Outcome],
    censored: Sequence[Outcome],
    steps: Float[np.ndarray, " run"],
) -> dict[str, np.ndarray | float | str]:
    level = np.array([value_at(one.series[measure.name], one.time) for one in finished])
    thresholds = np.array([_median(np.delete(level, i)) for i in range(len(level))])
    crossed = np.array(
        [_crossing(measure, one, limit) for one, limit in zip(finished, thresholds, strict=True)]
    )
    factor = factor_of_error(crossed, steps)
    median, low, high = median_interval(factor)
    ratios = factor / factor_of_error(others_mean(steps), steps)
    limit = _median(level)
    p = permutation_p(
        measure.scaled(
            np.array([[value_at(one.series[measure.name], s) for s in steps] for one in finished])
        )
    )
    past = [np.isfinite(_crossing(measure, one, limit)) for one in censored]
    return {
        "level": level,
        "threshold": limit,
        "variation": _variation(level),
        "permutation_p": p,
        "level_verdict": COMMON if p < FALSE_ALARMS else CANNOT_TELL,
        "held_out_threshold": thresholds,
        "predicted": crossed,
        "factor": factor,
        "median_factor": median,
        "median_factor_low": low,
        "median_factor_high": high,
        "worst_factor": float(np.nanmax(factor)) if np.isfinite(limit) else np.nan,
        "step_verdict": verdict(ratios),
        "censored_past": float(sum(past)),
    }


def value_at(series: xr.DataArray, step: float) -> float:
    """Return the value at the last saved step that is no later; NaN before the first."""
    place = int(np.searchsorted(series["step"].values, step, side="right")) - 1
    return float(series.values[place]) if place >= 0 else np.nan


def permutation_p(values: Float[np.ndarray, "run step"]) -> float:
    """Return the share of permutations of the steps at which the runs' values scatter as little.

    values: of each run (row) at the steps at which all of them generalised, its own on the
    diagonal. The permutation of the data itself counts as one. NaN where a value is not finite: a
    permutation could not be compared.
    """
    if not np.isfinite(values).all():
        return np.nan
    rows = np.arange(len(values))
    order = np.random.default_rng(0).permuted(np.tile(rows, (PERMUTATIONS, 1)), axis=1)
    spread, own = values[rows, order].std(axis=1), values.diagonal().std()
    # Rounding must not decide between permutations that are the same.
    return float((1 + np.count_nonzero(spread <= own * (1 + 1e-12))) / (1 + PERMUTATIONS))


def _variation(level: Float[np.ndarray, " run"]) -> float:
    finite = level[np.isfinite(level)]
    return float(finite.std(ddof=1) / abs(finite.mean())) if finite.size > 1 else np.nan


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else np.nan


def _crossing(measure: ProgressMeasure, run: Outcome, limit: float) -> float:
    """Return the first step from memorisation on that is past the limit; infinite if none is."""
    if not np.isfinite(limit):
        return np.nan
    series = run.series[measure.name].sel(step=slice(run.memorised, None))
    step = first_past(series, limit, "above" if measure.rises else "below")
    return np.inf if step is None else float(step)


_OF_MEASURE = "unit of the measure"
# Dimensions, unit and definition of the variables of `calibrate`.
_VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "generalised": (("run",), "steps", "Step at which the run generalised."),
    "baseline_factor": (
        ("run",), "1", "Factor of error of the geometric mean of the other runs' steps.",
    ),
    "level": (("measure", "run"), _OF_MEASURE, "Value at the step at which the run generalised."),
    "threshold": (("measure",), _OF_MEASURE, "Median level over the runs."),
    "variation": (("measure",), "1", "Coefficient of variation of the levels: SD over mean."),
    "permutation_p": (
        ("measure",), "1",
        "Share of permutations of the runs' steps at which the levels (of losses: their "
        "logarithms) have as small an SD.",
    ),
    "level_verdict": (
        ("measure",), "1",
        f"Whether the levels agree better than at permuted steps, at a rate of {FALSE_ALARMS} of "
        "false alarms.",
    ),
    "held_out_threshold": (
        ("measure", "run"), _OF_MEASURE, "Median level over the other runs.",
    ),
    "predicted": (
        ("measure", "run"), "steps",
        "First step from memorisation on past the held-out threshold; infinite if there is none.",
    ),
    "factor": (("measure", "run"), "1", "Factor of error of the predicted step."),
    "median_factor": (("measure",), "1", "Median over runs of the factor of error."),
    "median_factor_low": (("measure",), "1", "2.5% bootstrap quantile of the median factor."),
    "median_factor_high": (("measure",), "1", "97.5% bootstrap quantile of the median factor."),
    "worst_factor": (("measure",), "1", "Largest factor of error of a run."),
    "step_verdict": (("measure",), "1", "Verdict on the predicted steps against the baseline."),
    "censored_past": (
        ("measure",), "1",
        "Runs that did not generalise in which the measure passes the threshold all the same.",
    ),
}  # fmt: skip
