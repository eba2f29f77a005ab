"""Is the first axis of the space of token losses the overall loss?"""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from pipeline.aggregate.loss_space import loadings
from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import (
    SUBSTRINGS_INPUTS,
    SUBSTRINGS_MEASURES,
    TEXT_INPUTS,
    TEXT_MEASURES,
    substrings,
    text,
)
from pipeline.experiments.sources import INTERVIEW
from pipeline.query import aggregates

_GUESS = f"{INTERVIEW}: the interviewer's guess"
ON_SUBSTRINGS = Claim(
    "first-axis-substrings",
    "A checkpoint's place on the first axis of loss space is its overall loss, on repeated "
    "substrings.",
    _GUESS,
)
ALIKE_ON_SUBSTRINGS = Claim(
    "first-axis-alike-substrings",
    "Along the first axis the losses of all tokens change alike, on repeated substrings.",
    _GUESS,
)
ON_TEXT = Claim(
    "first-axis-text",
    "A checkpoint's place on the first axis of loss space is its overall loss, on text.",
    _GUESS,
)
ALIKE_ON_TEXT = Claim(
    "first-axis-alike-text",
    "Along the first axis the losses of all tokens change alike, on text.",
    _GUESS,
)


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    on_substrings = runs.results(
        [Run(substrings(2, seed), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS) for seed in seeds]
    )
    yield from _found(ON_SUBSTRINGS, ALIKE_ON_SUBSTRINGS, on_substrings)
    on_text = runs.results(
        [Run(text(2, seed, task={"path": runs.text}), TEXT_MEASURES, TEXT_INPUTS)
         for seed in ([] if runs.quick else range(5))]
    )  # fmt: skip
    yield from _found(ON_TEXT, ALIKE_ON_TEXT, on_text)


def _found(place: Claim, alike: Claim, results: Sequence[Result]) -> Iterator[Finding]:
    spaces = {one.seed: (one, aggregates.loss_space(one.store)) for one in results}
    shares = [f"{float(space['share'].sel(component=1)):.2f}" for _, space in spaces.values()]
    found = f"the axis has {', '.join(shares)} of the variance"
    explained = {seed: _explained(*of) for seed, of in spaces.items()}
    yield finding(
        place,
        Effect("squared correlation over checkpoints of the place on the axis with the mean loss",
               "1", explained),
        Above(0.9), found,  # "is": but for a tenth
    )  # fmt: skip
    cosines = {seed: _squared_cosine(*of) for seed, of in spaces.items()}
    yield finding(
        alike,
        Effect("squared cosine of the first axis with an equal change of all tokens", "1", cosines),
        Above(0.9), found,
    )  # fmt: skip


def _explained(result: Result, space: xr.Dataset) -> float:
    places = space["scores"].sel(component=1)
    mean = result.group("token_loss")["mean"].sel(step=places["step"].values)
    return float(np.corrcoef(places.values, mean.values)[0, 1]) ** 2


def _squared_cosine(result: Result, space: xr.Dataset) -> float:
    arrays = {str(space["run"].values[0]): result.group("token_loss").loss}
    first = loadings(arrays, space).sel(component=1)
    # Loadings have a mean square of 1, so that the squared mean is the squared cosine with the
    # direction in which the losses of all tokens change alike.
    return float(first.mean()) ** 2


EXPERIMENT = Experiment(
    "first-axis", "The first axis of loss space",
    (ON_SUBSTRINGS, ALIKE_ON_SUBSTRINGS, ON_TEXT, ALIKE_ON_TEXT), _answer,
)  # fmt: skip
