"""Grokking: memorisation, then a circuit that forms unseen by train and test loss, then cleanup."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.aggregate.phases import SOLVED, fall_of, milestones
from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import (
    ANSWERED,
    PROBABILITY,
    by_seed,
    fall_width,
    generalised_at,
    probability,
    progress,
)
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import MODULAR_MEASURES, modular
from pipeline.experiments.sources import NANDA, POWER

_SECTION = f"{NANDA}, section 5.2"
GENERALISES = Claim(
    "grokking-generalises",
    "With weight decay, a model of half of the table comes to know the other half.", POWER,
)  # fmt: skip
LATE = Claim(
    "grokking-late",
    "To know the test pairs takes at least twice as many steps as to memorise the train pairs.",
    POWER,
)
AHEAD = Claim("restricted-ahead", "Restricted loss falls ahead of test loss.", _SECTION)
GRADUAL = Claim(
    "restricted-gradual", "Restricted loss falls more gradually than test loss.", _SECTION
)
EXCLUDED = Claim(
    "excluded-rises", "Excluded loss rises from memorisation to the end of circuit formation.",
    _SECTION,
)  # fmt: skip
CLEANUP = Claim("cleanup-norm", "The weight norm falls in cleanup.", _SECTION)
_BOUND = "restricted loss that is not below 0.1 by the last step counts as below it there"


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular`."""
    seeds = range(3 if runs.quick else 5)
    trained = runs.results([Run(modular(seed=seed, **setting), MODULAR_MEASURES) for seed in seeds])
    # 0.1 nats, the loss at which a run counts as generalised wherever this package dates it.
    known = Effect(PROBABILITY, "1", by_seed(trained, probability))
    yield finding(GENERALISES, known, Above(ANSWERED))
    for claim, name, effect, region in (
        (LATE, "step of generalisation over that of memorisation", _delay, Above(2.0)),
        (AHEAD, "step of restricted loss below 0.1 over that of test loss", _lead, Below(1.0)),
        (GRADUAL, "steps of the fall of restricted loss over those of test loss", _widths,
         Above(1.0)),
    ):  # fmt: skip
        yield finding(claim, Effect(name, "1", _if_generalised(trained, effect), geometric=True),
                      region, _BOUND)  # fmt: skip
    rise = Effect("rise of excluded loss", "nats", _if_generalised(trained, _rise))
    yield finding(EXCLUDED, rise, Above(0.0))
    norm = Effect("squared weight norm after cleanup over before", "1",
                  _if_generalised(trained, _cleaned), geometric=True)  # fmt: skip
    yield finding(CLEANUP, norm, Below(1.0))


def _if_generalised(results: Sequence[Result], effect: Callable) -> dict[int, float]:
    """Return an effect by seed; NaN for runs without the step that it is compared with."""
    return by_seed(results, lambda one: np.nan if generalised_at(one) is None else effect(one))


def _dates(result: Result) -> dict[str, int]:
    """Return the steps of memorisation, circuit formation and generalisation, at most the last."""
    last = result.run.training.steps
    return {
        name: last if step is None else step
        for name, step in milestones(progress(result), SOLVED).items()
    }


def _delay(result: Result) -> float:
    dates = _dates(result)
    return dates["test_loss"] / dates["train_loss"]


def _lead(result: Result) -> float:
    dates = _dates(result)
    return dates["restricted_loss"] / dates["test_loss"]


def _widths(result: Result) -> float:
    losses = progress(result)
    return fall_width(losses["restricted_loss"]) / fall_width(losses["test_loss"])


def _formed(result: Result) -> int:
    """Return the step at which test loss stays below half of its maximum, at most the last."""
    step = fall_of(progress(result)["test_loss"])
    return result.run.training.steps if step is None else step


def _rise(result: Result) -> float:
    excluded = progress(result)["excluded_loss"]
    start, end = _dates(result)["train_loss"], _formed(result)
    return float(excluded.sel(step=end)) - float(excluded.sel(step=start))


def _cleaned(result: Result) -> float:
    norm = result.group("weight_norm").sum_of_squares.load()
    end = _dates(result)["test_loss"]
    return float(norm.sel(step=end)) / float(norm.sel(step=min(_formed(result), end)))


EXPERIMENT = Experiment(
    "grokking", "Grokking: memorisation, circuit formation, cleanup",
    (GENERALISES, LATE, AHEAD, GRADUAL, EXCLUDED, CLEANUP), answer,
)  # fmt: skip
