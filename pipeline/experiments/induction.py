"""Induction heads form abruptly, with in-context learning and a corner of the token losses."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.aggregate.corner import find_corner
from pipeline.experiments.claims import Above, Below, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import in_context, rise, strongest
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, SUBSTRINGS_MEASURES, substrings
from pipeline.experiments.sources import OLSSON
from pipeline.measures.head_patterns import THRESHOLD
from pipeline.query import aggregates

_ARGUMENT = f"{OLSSON}, argument 1"
NARROW = Claim(
    "induction-narrow",
    "In two layers, induction heads form in a narrow window of training.",
    _ARGUMENT,
)
WITH_IN_CONTEXT = Claim(
    "induction-with-in-context",
    "Induction heads form together with the jump in in-context learning.",
    _ARGUMENT,
)
WITH_CORNER = Claim(
    "induction-with-corner",
    "The run's trajectory through the space of token losses has its corner at that time.",
    _ARGUMENT,
)
NO_HEAD = Claim("one-layer-no-induction", "One layer forms no induction heads.", _ARGUMENT)
NO_JUMP = Claim(
    "one-layer-no-in-context", "One layer does not learn in context as two layers do.", _ARGUMENT
)

_TOGETHER = Between(0.8, 1.25)  # of the step: two changes a fifth of it apart are not one


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    results = runs.results(
        [Run(substrings(layers, seed), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS)
         for layers in (2, 1) for seed in seeds]
    )  # fmt: skip
    two, one = results[: len(seeds)], results[len(seeds) :]
    yield from _of_two_layers(two)
    yield from _of_one_layer(one, two)


def _of_two_layers(two: Sequence[Result]) -> Iterator[Finding]:
    rises = {result.seed: rise(strongest(result)) for result in two}
    at = ", ".join(f"{of.middle:.0f}" for of in rises.values())

    widths = {seed: of.relative_width for seed, of in rises.items()}
    yield finding(
        NARROW,
        Effect("steps from 10% to 90% of the strongest induction score, over the step of 50%", "1",
               widths, geometric=True),
        Below(0.5),  # a third of the 1.6 of a score that grows in proportion to the step
        f"half of the rise at steps {at}",
    )  # fmt: skip

    ratios = {
        result.seed: rise(-in_context(result)).middle / rises[result.seed].middle for result in two
    }
    yield finding(
        WITH_IN_CONTEXT,
        Effect("step of half the in-context score, over that of induction", "1", ratios,
               geometric=True),
        _TOGETHER,
    )  # fmt: skip

    corners = {result.seed: _corner(result) / rises[result.seed].middle for result in two}
    together = {seed: float(_TOGETHER.low < at < _TOGETHER.high) for seed, at in corners.items()}
    yield finding(
        WITH_CORNER,
        Effect("share of seeds with a corner at 0.8 to 1.25 of the step of half the rise of "
               "induction", "1", together, is_share=True),
        Above(0.5),
        f"a corner counts where random walks have none as sharp; there, in steps of that: "
        f"{', '.join('none' if np.isnan(of) else f'{of:.2f}' for of in corners.values())}",
    )  # fmt: skip


def _of_one_layer(one: Sequence[Result], two: Sequence[Result]) -> Iterator[Finding]:
    scores = {result.seed: _above_null(result) for result in one}
    yield finding(
        NO_HEAD, Effect("strongest induction score above its null, at the end", "1", scores),
        Below(THRESHOLD),
    )  # fmt: skip

    shares = {
        single.seed: float(in_context(single)[-1] / in_context(double)[-1])
        for single, double in zip(one, two, strict=True)
    }
    yield finding(
        NO_JUMP, Effect("in-context score of one layer, over that of two", "1", shares), Below(0.5)
    )


def _above_null(result: Result) -> float:
    """Return the largest induction score less its null at the last step."""
    last = result.group("head_scores").isel(step=-1)
    return float((last.induction - last.induction_null).max())


def _corner(result: Result) -> float:
    """Return the step of the corner in the space of token losses; NaN without one."""
    return float(find_corner(aggregates.loss_space(result.store)).sel(window="whole")["step"])


EXPERIMENT = Experiment(
    "induction", "Induction heads form with in-context learning",
    (NARROW, WITH_IN_CONTEXT, WITH_CORNER, NO_HEAD, NO_JUMP), _answer,
)  # fmt: skip
