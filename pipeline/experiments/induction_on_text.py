"""Induction on real text: its window of training, and one layer as a control."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import xarray as xr

from pipeline.experiments.claims import Below, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import Rise, rise
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import TEXT_INPUTS, TEXT_MEASURES, text
from pipeline.experiments.sources import OLSSON

NARROW = Claim(
    "text-induction-narrow",
    "On text, induction heads form in a narrow window of training.",
    f"{OLSSON}, argument 1",
)
WITH_IN_CONTEXT = Claim(
    "text-induction-with-in-context",
    "On text, induction heads form together with in-context learning.",
    f"{OLSSON}, argument 1",
)
NO_HEAD = Claim(
    "text-one-layer-no-induction",
    "On text, one layer forms no induction heads.",
    f"{OLSSON}, argument 1",
)
NO_JUMP = Claim(
    "text-one-layer-no-in-context",
    "On text, one layer does not learn in context as two layers do.",
    f"{OLSSON}, argument 1",
)

_MEASURES = {**TEXT_MEASURES, "natural_induction": {}}
_WINDOW = 16  # positions that are averaged, since the loss of one varies by 0.1 nats


def _answer(runs: Runs) -> Iterator[Finding]:
    # A quarter of an hour each: too long for a quick run. One layer is a control, with fewer seeds.
    seeds = [] if runs.quick else range(5)
    settings = [(2, seed) for seed in seeds] + [(1, seed) for seed in seeds[:3]]
    path = {"path": runs.text}
    results = runs.results([Run(text(*one, task=path), _MEASURES, TEXT_INPUTS) for one in settings])
    two, one = results[: len(seeds)], results[len(seeds) :]
    rises = {result.seed: _finished_rise(_induction(result)) for result in two}

    widths = {seed: of.relative_width for seed, of in rises.items()}
    yield finding(
        NARROW,
        Effect("steps from 10% to 90% of the strongest natural induction, over the step of 50%",
               "1", widths, geometric=True),
        Below(0.5),  # as for induction on repeated substrings
        f"strongest at the end: {', '.join(f'{float(_induction(of)[-1]):.2f}' for of in two)}",
    )  # fmt: skip

    ratios = {of.seed: _finished_rise(-_in_context(of)).middle / rises[of.seed].middle
              for of in two}  # fmt: skip
    yield finding(
        WITH_IN_CONTEXT,
        Effect("step of half the in-context score, over that of induction", "1", ratios,
               geometric=True),
        Between(0.8, 1.25),  # of the step: two changes a fifth of it apart are not one
    )  # fmt: skip

    yield finding(
        # Heads of two layers are far from a score of 1 by then: compared with them, not with 0.3.
        NO_HEAD, Effect("strongest natural induction of one layer, over that of two", "1",
                        _ends(_induction, one, two[: len(one)])),
        Below(0.5),
    )  # fmt: skip

    scores = Effect("in-context score of one layer, over that of two", "1",
                    _ends(_in_context, one, two[: len(one)]))  # fmt: skip
    yield finding(NO_JUMP, scores, Below(0.5))


def _induction(result: Result) -> xr.DataArray:
    """Return the strongest head's attention to the token after a match, less its null."""
    of = result.group("natural_induction")
    return (of.induction - of.null).max(("layer", "head")).load()


def _finished_rise(series: xr.DataArray) -> Rise:
    """Return the rise of a series; NaN where it goes on at the end, so that its height is unknown.

    It has ended if the mean of the last quarter of the steps is nine tenths of the way up.
    """
    steps = series["step"].values
    last_quarter = series.values[steps >= steps[-1] - (steps[-1] - steps[0]) / 4].mean()
    first, largest = float(series[0]), float(series.max())
    finished = last_quarter - first >= 0.9 * (largest - first)
    return rise(series) if finished else Rise(np.nan, np.nan)


def _in_context(result: Result) -> xr.DataArray:
    """Return the mean loss of the last positions less that of early ones (dims: step)."""
    loss = result.group("token_loss").mean_by_position.load()
    early = loss.isel(position=slice(_WINDOW, 2 * _WINDOW)).mean("position")
    return loss.isel(position=slice(-_WINDOW, None)).mean("position") - early


def _ends(of: Callable, some: Sequence[Result], others: Sequence[Result]) -> dict[int, float]:
    """Return the ratio of a series' last values, by seed."""
    return {a.seed: float(of(a)[-1] / of(b)[-1]) for a, b in zip(some, others, strict=True)}


EXPERIMENT = Experiment(
    "induction-on-text", "Induction heads form with in-context learning, on text",
    (NARROW, WITH_IN_CONTEXT, NO_HEAD, NO_JUMP), _answer,
)  # fmt: skip
