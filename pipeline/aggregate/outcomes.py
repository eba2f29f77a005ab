"""Outcomes of the runs of a sweep: which generalised, and when; for threshold and forecast.

`generalised` applies the one definition, that of `pipeline.aggregate.phases`. A run in which it
does not happen by the last saved step is censored: it is known to take longer than the run, and no
more. Censored runs calibrate nothing, and are counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.aggregate.levels import SPIKES
from pipeline.aggregate.phases import SOLVED, milestones
from pipeline.errors import InputError

# The step at which a run generalised, from its progress measures; None if it never did.
Rule = Callable[[xr.Dataset], int | None]

RULE = (
    "A run generalised at the first saved step from which on its test loss stays below "
    f"{SOLVED} nats; {SPIKES}."
)
# Group, variable, and its name among the series.
_OTHERS = (
    ("weight_norm", "sum_of_squares", "sum_of_squares"),
    ("excluded_loss", "largest", "excluded_loss_of_one"),
)
FEWEST = 3  # runs that generalised: with one held out, two are left to calibrate by


@dataclass(frozen=True)
class Outcome:
    """A run: its series in order of step, and when it memorised (None: never) and generalised.

    time: the step at which it generalised; infinite for a censored run.
    """

    name: str
    series: xr.Dataset
    memorised: int | None
    time: float

    @classmethod
    def of(cls, name: str, run: xr.Dataset, rule: Rule) -> "Outcome":
        """Apply the rule. Raises InputError for a run that generalised before it was trained."""
        ordered = in_order(run)
        step = rule(ordered)
        if step is not None and step <= 0:
            raise InputError(
                f"{name}: generalised at step {step}, expected a positive step: leave the run out"
            )
        time = np.inf if step is None else float(step)
        return cls(name, ordered, milestones(ordered)["train_loss"], time)


def series_of(
    groups: Mapping[str, xr.Dataset], settings: Mapping[str, float] | None = None
) -> xr.Dataset:
    """Return the series over `step` that tell how far a run is from generalising, as one dataset.

    groups: those of a store, with `modular_addition`. Beside the series of that group: from
    `weight_norm` the `sum_of_squares`, and from `excluded_loss` the `largest` as
    `excluded_loss_of_one`, where these are present (NaN at steps that they lack). settings: of the
    run's training, kept as variables without dimensions.
    """
    main = groups["modular_addition"]
    series = main[[name for name in main.data_vars if main[name].dims == ("step",)]]
    series = series.reset_coords(drop=True)
    for group, variable, name in _OTHERS:
        if group in groups:
            series[name] = groups[group][variable].reset_coords(drop=True).reindex_like(series)
    return series.assign(dict(settings or {}))


def in_order(run: xr.Dataset) -> xr.Dataset:
    """Return a run in the order of its steps, on both axes of a Gram matrix."""
    return run.sortby([dim for dim in ("step", "other_step") if dim in run.dims])


def generalised(progress: xr.Dataset) -> int | None:
    """Return the step at which a run generalised (see `RULE`), or None."""
    return milestones(progress)["test_loss"]


def outcomes(
    runs: Mapping[str, xr.Dataset], rule: Rule = generalised
) -> tuple[list[Outcome], list[Outcome]]:
    """Return the runs that generalised and the censored ones, with their series in order of step.

    runs: by name, each with the variables of the group `modular_addition` and any others over
    `step`. Raises InputError for fewer than `FEWEST` runs that generalised, of which one is to be
    predicted by the others.
    """
    found = [Outcome.of(name, run, rule) for name, run in runs.items()]
    finished = [one for one in found if np.isfinite(one.time)]
    if len(finished) < FEWEST:
        raise InputError(
            f"{len(finished)} of {len(runs)} runs generalised, expected at least {FEWEST}: one run "
            "is predicted by the others, so add runs, or train them for longer"
        )
    return finished, [one for one in found if not np.isfinite(one.time)]
