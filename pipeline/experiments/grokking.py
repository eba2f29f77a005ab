"""Grokking: memorisation, then a circuit that forms unseen by train and test loss, then cleanup."""

from collections.abc import Iterator
from typing import Any

from pipeline.aggregate.phases import SOLVED, fall_of, milestones
from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import (
    ANSWERED,
    PROBABILITY,
    by_seed,
    fall_width,
    probability,
    progress,
)
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import modular
from pipeline.experiments.sources import NANDA

_SECTION = f"{NANDA}, section 5.2"
GENERALISES = Claim(
    "grokking-generalises",
    "With weight decay, a model of half of the table comes to know the other half.",
    "Power et al. 2022, Grokking",
)
LATE = Claim(
    "grokking-late",
    "To know the test pairs takes at least twice as many steps as to memorise the train pairs.",
    "Power et al. 2022, Grokking",
)
AHEAD = Claim(
    "restricted-ahead", "Restricted loss falls ahead of test loss.", _SECTION
)  # fmt: skip
GRADUAL = Claim(
    "restricted-gradual", "Restricted loss falls more gradually than test loss.", _SECTION
)
EXCLUDED = Claim(
    "excluded-rises",
    "Excluded loss rises from memorisation to the end of circuit formation.",
    _SECTION,
)
CLEANUP = Claim("cleanup-norm", "The weight norm falls in cleanup.", _SECTION)
_MEASURES = {"modular_addition": {}, "weight_norm": {}}
_BOUND = "what has not happened by the last step counts as of that step"


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular`."""
    seeds = range(3 if runs.quick else 5)
    trained = runs.results([Run(modular(seed=seed, **setting), _MEASURES) for seed in seeds])
    # 0.1 nats, the loss at which a run counts as generalised wherever this package dates it.
    known = Effect(PROBABILITY, "1", by_seed(trained, probability))
    yield finding(GENERALISES, known, Above(ANSWERED))
    for claim, name, effect, region in (
        (LATE, "step of generalisation over that of memorisation", _delay, Above(2.0)),
        (AHEAD, "step of restricted loss below 0.1 over that of test loss", _lead, Below(1.0)),
        (GRADUAL, "steps of the fall of restricted loss over those of test loss", _widths,
         Above(1.0)),
    ):  # fmt: skip
        yield finding(claim, Effect(name, "1", by_seed(trained, effect), geometric=True), region,
                      _BOUND)  # fmt: skip
    yield finding(EXCLUDED, Effect("rise of excluded loss", "nats", by_seed(trained, _rise)),
                  Above(0.0))  # fmt: skip
    norm = Effect("squared weight norm after cleanup over before", "1",
                  by_seed(trained, _cleaned), geometric=True)  # fmt: skip
    yield finding(CLEANUP, norm, Below(1.0))


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
    "grokking",
    "Grokking: memorisation, circuit formation, cleanup",
    (GENERALISES, LATE, AHEAD, GRADUAL, EXCLUDED, CLEANUP),
    answer,
)
