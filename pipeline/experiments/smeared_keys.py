"""Smeared keys: does in-context learning need two layers, and does it form abruptly, with them?"""

from collections.abc import Iterator

from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import formation
from pipeline.experiments.runs import Run, Runs
from pipeline.experiments.settings import EARLY, LATE, SUBSTRINGS_INPUTS, substrings

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads, argument 2"

EARLIER = Claim(
    "smeared-earlier",
    "With smeared keys, induction forms earlier than without.",
    _OLSSON,
)
NO_BUMP = Claim(
    "smeared-no-bump",
    "With smeared keys there is no bump: induction does not form abruptly in two layers.",
    _OLSSON,
)
ONE_LAYER = Claim(
    "smeared-one-layer",
    "With smeared keys, one layer learns in context nearly as well as two layers.",
    _OLSSON,
)

_MEASURES = {"token_loss": {"early_token": EARLY, "late_token": LATE}, "head_scores": {}}


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    settings = [(2, False), (2, True), (1, True)]
    trained = runs.results(
        [
            Run(substrings(layers, seed, 600 if smeared else 1200,
                           model={"smeared_keys": smeared}), _MEASURES, SUBSTRINGS_INPUTS)
            for layers, smeared in settings
            for seed in seeds
        ]
    )  # fmt: skip
    n = len(seeds)
    plain, smeared, single = trained[:n], trained[n : 2 * n], trained[2 * n :]
    plain_forms, smeared_forms = map(formation, plain), list(map(formation, smeared))

    earlier = {a.seed: b.middle / a.middle for a, b in zip(plain_forms, smeared_forms, strict=True)}
    yield finding(
        EARLIER, Effect("step of formation, smeared over plain", "1", earlier, geometric=True),
        Below(1.0),
    )  # fmt: skip

    # A score that grows in proportion to the step takes 1.6 of its middle from 10% to 90%.
    width = {one.seed: one.width / one.middle for one in smeared_forms}
    yield finding(
        NO_BUMP, Effect("steps from 10% to 90% over the middle", "1", width, geometric=True),
        Above(1.0),
    )  # fmt: skip

    share = {
        a.seed: float(b.data["token_loss"].in_context_score[-1])
        / float(a.data["token_loss"].in_context_score[-1])
        for a, b in zip(plain, single, strict=True)
    }
    yield finding(
        ONE_LAYER,
        Effect("in-context score, one smeared layer over two plain ones", "1", share),
        Above(0.9),
    )


EXPERIMENT = Experiment(
    "smeared-keys", "Smeared keys replace the first layer", (EARLIER, NO_BUMP, ONE_LAYER), _answer
)
