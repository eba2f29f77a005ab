"""Nine terms for each neuron, and two output directions for each cluster of neurons."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.aggregate.phases import SOLVED
from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import by_seed
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import modular
from pipeline.experiments.sources import NANDA

_SECTIONS = f"{NANDA}, sections 4.2 and 4.3"
NINE = Claim(
    "nine-terms",
    "Nine terms are enough for each neuron: 1, cos and sin of a, times 1, cos and sin of b, at one "
    "frequency.",
    _SECTIONS,
)
TWO = Claim(
    "two-directions",
    "Beside nine terms for each neuron, two output directions are enough for each frequency.",
    _SECTIONS,
)
OTHER = Claim(
    "other-frequency",
    "It matters which frequency a neuron has: with nine terms of another, most is lost.",
    "a null for the claim of nine terms",
)


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular`."""
    seeds = range(3 if runs.quick else 5)
    trainings = [modular(seed=seed, **setting) for seed in seeds]
    last = {"steps": (trainings[0].steps,)}
    trained = runs.results([Run(one, {"nine_terms": {}}, select=last) for one in trainings])
    # 5% of what the model knows: enough is what makes hardly a difference.
    for claim, loss, region in (
        (NINE, "test", Above(0.95)),
        (TWO, "two_directions_test", Above(0.95)),
        (OTHER, "other_frequency_test", Below(0.5)),
    ):
        kept = by_seed(trained, lambda one, loss=loss: _kept(one, loss))
        name = "share kept of the test loss that is below that of guessing"
        yield finding(
            claim, Effect(name, "1", kept), region,
            "undefined for a run that does not know its test pairs at the end",
        )  # fmt: skip


def _kept(result: Result, loss: str) -> float:
    """Return the share that is left of ln p less the test loss; NaN without generalisation."""
    found = result.group("nine_terms").isel(step=-1)
    whole = float(found["unchanged_test"])
    guessing = float(np.log(result.run.training.task.p))  # pyright: ignore[reportAttributeAccessIssue]
    return (guessing - float(found[loss])) / (guessing - whole) if whole < SOLVED else np.nan


EXPERIMENT = Experiment(
    "nine-terms", "Neurons of one frequency, and their outputs", (NINE, TWO, OTHER), answer
)
