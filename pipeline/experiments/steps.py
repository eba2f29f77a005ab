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
    "The scores of most heads are better described by a step than by a smooth curve.",
    INTERVIEW,
)
BEYOND_FALSE_ALARMS = Claim(
    "steps-beyond-false-alarms",
    "Steps are more frequent among heads than among smooth curves and random walks.",
    INTERVIEW,
)


def _answer(runs: Runs) -> Iterator[Finding]:
    results = runs.results(
        [Run(substrings(2, seed), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS)
         for seed in range(3 if runs.quick else 5)]
    )  # fmt: skip
    found = {one.seed: step_shares(one.data).sel(which=ALL)["share"] for one in results}
    share = {seed: float(of.sel(kind="series")) for seed, of in found.items()}
    yield finding(MOST, Effect("share of changing series that have a step", "1", share), Above(0.5))

    false_alarms = {
        seed: float(np.nanmax(of.sel(kind=[SMOOTH, WALKS]))) for seed, of in found.items()
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
