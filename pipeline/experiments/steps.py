"""Do the scores of most heads change in steps, rather than smoothly?"""

from collections.abc import Iterator

import numpy as np

from pipeline.aggregate.step_share import ALL, SMOOTH, WALKS, step_shares
from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, SUBSTRINGS_MEASURES, substrings
from pipeline.experiments.sources import INTERVIEW

MOST = Claim(
    "steps-most",
    "Most of the scores of heads that change are better described by a step than by a smooth "
    "curve.",
    INTERVIEW,
)
BEYOND_FALSE_ALARMS = Claim(
    "steps-beyond-false-alarms",
    "Steps are more frequent among these scores than among smooth curves and random walks.",
    INTERVIEW,
)


def _answer(runs: Runs) -> Iterator[Finding]:
    results = runs.results(
        [Run(substrings(2, seed), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS)
         for seed in range(3 if runs.quick else 5)]
    )  # fmt: skip
    # Null series are drawn anew for each run, so that the interval has their scatter too.
    found = {one.seed: step_shares(one.data, seed=one.seed).sel(which=ALL) for one in results}
    lowest = {seed: float(of["lowest"].sel(kind="series")) for seed, of in found.items()}
    yield finding(
        MOST, Effect("share of changing scores that have a step", "1", lowest), Above(0.5),
        "those that cannot be told count as smooth",
    )  # fmt: skip

    share = {seed: float(of["share"].sel(kind="series")) for seed, of in found.items()}
    false_alarms = {
        seed: float(np.max(of["share"].sel(kind=[SMOOTH, WALKS]).values))
        for seed, of in found.items()
    }
    above = {seed: share[seed] - false_alarms[seed] for seed in share}
    named = ", ".join(f"{one:.2f}" for one in false_alarms.values())
    yield finding(
        BEYOND_FALSE_ALARMS,
        Effect("share of steps, less the larger share among smooth curves and random walks", "1",
               above),
        Above(0.0), f"shares among these: {named}",
    )  # fmt: skip


EXPERIMENT = Experiment(
    "steps", "Head scores change in steps", (MOST, BEYOND_FALSE_ALARMS), _answer
)
