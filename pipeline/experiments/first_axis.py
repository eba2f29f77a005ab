"""Is the first axis of the space of token losses the overall loss?"""

from collections.abc import Iterator, Sequence

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

ON_SUBSTRINGS = Claim(
    "first-axis-substrings",
    "The first axis of loss space is the overall loss: on repeated substrings.",
    f"{INTERVIEW}: the interviewer's guess",
)
ON_TEXT = Claim(
    "first-axis-text",
    "The first axis of loss space is the overall loss: on text.",
    f"{INTERVIEW}: the interviewer's guess",
)


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    on_substrings = runs.results(
        [Run(substrings(2, seed), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS) for seed in seeds]
    )
    yield _found(ON_SUBSTRINGS, on_substrings)
    on_text = runs.results(
        [Run(text(2, seed, task={"path": runs.text}), TEXT_MEASURES, TEXT_INPUTS)
         for seed in ([] if runs.quick else range(5))]
    )  # fmt: skip
    yield _found(ON_TEXT, on_text)


def _found(claim: Claim, results: Sequence[Result]) -> Finding:
    alike, shares = {}, []
    for result in results:
        space = aggregates.loss_space(result.store)
        arrays = {str(space["run"].values[0]): result.group("token_loss").loss}
        first = loadings(arrays, space).sel(component=1)
        # Loadings have a mean square of 1, so that the squared mean is the squared cosine with the
        # direction in which the losses of all tokens change alike.
        alike[result.seed] = float(first.mean()) ** 2
        shares.append(f"{float(space['share'].sel(component=1)):.2f}")
    effect = Effect("squared cosine of the first axis with an equal change of all tokens", "1",
                    alike)  # fmt: skip
    found = f"the axis has {', '.join(shares)} of the variance"
    return finding(claim, effect, Above(0.9), found)  # "is": but for a tenth


EXPERIMENT = Experiment(
    "first-axis", "The first axis of loss space", (ON_SUBSTRINGS, ON_TEXT), _answer
)
