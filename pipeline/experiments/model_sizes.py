"""In-context learning over model sizes: the score after the bump, and the order of slopes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.aggregate.derivatives_by_size import compare_derivatives
from pipeline.errors import InputError
from pipeline.experiments.claims import Above, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import rise, strongest
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import (
    SUBSTRINGS_INPUTS,
    SUBSTRINGS_MEASURES,
    substrings,
)
from pipeline.experiments.sources import OLSSON

CONSTANT = Claim(
    "in-context-constant",
    "After the bump, the in-context score is the same for all sizes of model.",
    OLSSON,
)
SWAP = Claim(
    "derivatives-swap",
    "Before the bump the loss falls faster in larger models, after it in smaller ones, or the "
    "reverse: the order of sizes swaps.",
    OLSSON,
)

# Widths; on text, models of these sizes have not passed the bump by 7,000 steps.
_SIZES = (64, 96, 128)
_SAME = Between(-0.2, 0.2)  # of the mean score: a fifth more or less counts as the same


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    by_size = _by_size(runs.results(
        [Run(substrings(2, seed, model={"hidden_size": size}), SUBSTRINGS_MEASURES,
             SUBSTRINGS_INPUTS) for size in _SIZES for seed in seeds]
    ), _SIZES)  # fmt: skip
    yield _constant(by_size)

    swapped = {seed: _swaps({size: of[seed] for size, of in by_size.items()}) for seed in seeds}
    yield finding(
        SWAP, Effect("share of seeds in which the order swaps", "1", swapped, is_share=True),
        Above(0.5), "undefined where the largest and the smallest do not clearly differ",
    )  # fmt: skip


BySize = Mapping[int, Mapping[int, Result]]


def _by_size(results: Sequence[Result], sizes: Sequence[int]) -> BySize:
    """Return the results by size and seed."""
    per_size = len(results) // len(sizes)
    return {
        size: {one.seed: one for one in results[i * per_size : (i + 1) * per_size]}
        for i, size in enumerate(sizes)
    }


def _constant(by_size: BySize) -> Finding:
    scores = {size: {seed: float(one.group("token_loss").in_context_score[-1])
                     for seed, one in of.items()} for size, of in by_size.items()}  # fmt: skip
    smallest, *_, largest = scores.values()
    every = [np.mean([of[seed] for of in scores.values()]) for seed in smallest]
    change = {seed: float((largest[seed] - smallest[seed]) / mean)
              for seed, mean in zip(smallest, every, strict=True)}  # fmt: skip
    named = "; ".join(f"width {size}: {', '.join(f'{v:.2f}' for v in of.values())} nats"
                      for size, of in scores.items())  # fmt: skip
    name = "in-context score of the largest less the smallest, over the mean"
    return finding(CONSTANT, Effect(name, "1", change), _SAME, named)


def _swaps(by_size: Mapping[int, Result]) -> float:
    """Return 1 if the largest's loss falls faster on one side of the bumps only, else 0.

    NaN where the slopes of a side differ by less than two standard errors, where a bump begins or
    ends with the run, and without a bump.
    """
    groups = {str(size): one.group("token_loss") for size, one in by_size.items()}
    rises = [rise(strongest(one)) for one in by_size.values()]
    # Not by `min`, which leaves out some of what is NaN.
    bump = (float(np.min([one.middle - one.width for one in rises])),
            float(np.max([one.middle + one.width for one in rises])))  # fmt: skip
    sizes = {str(size): float(size) for size in by_size}
    try:
        compared = compare_derivatives(groups, sizes, bump)
    except InputError:  # the bump is not inside of the run, or NaN
        return np.nan
    difference, error = compared["difference"].values, compared["difference_error"].values
    clear = (np.abs(difference) > 2 * error).all()
    return float(np.prod(difference) < 0) if clear else np.nan


EXPERIMENT = Experiment(
    "model-sizes", "In-context learning over model sizes", (CONSTANT, SWAP),
    _answer,
)  # fmt: skip
