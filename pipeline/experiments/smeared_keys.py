"""Smeared keys: does in-context learning need two layers, and does it form abruptly, with them?"""

from collections.abc import Iterator, Sequence

from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import formed_at, in_context, rise, strongest
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, SUBSTRINGS_MEASURES, substrings
from pipeline.experiments.sources import OLSSON

EARLIER = Claim(
    "smeared-earlier",
    "With smeared keys, induction heads form earlier than without.",
    f"{OLSSON}, argument 2",
)
NO_BUMP = Claim(
    "smeared-no-bump",
    "With smeared keys there is no bump: two layers learn in context more gradually than without.",
    f"{OLSSON}, argument 2",
)
ONE_LAYER = Claim(
    "smeared-one-layer",
    "With smeared keys, one layer learns in context nearly as well as two layers without.",
    f"{OLSSON}, argument 2",
)


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    trained = runs.results(
        [_run(2, seed, False) for seed in seeds]
        + [_run(layers, seed, True) for layers in (2, 1) for seed in seeds]
    )
    n = len(seeds)
    plain, smeared, single = trained[:n], trained[n : 2 * n], trained[2 * n :]

    forms = [[formed_at(strongest(one)) for one in kind] for kind in (plain, smeared)]
    earlier = {
        one.seed: later / step
        for one, (step, _), (later, _) in zip(plain, *forms, strict=True)
    }  # fmt: skip
    formed = sum(has for _, has in forms[0])
    yield finding(
        EARLIER,
        Effect("step at which the first induction head forms, over that of plain keys", "1",
               earlier, geometric=True),
        Below(1.0), f"formed in {formed} of {n} runs with plain keys, else the last step is taken",
    )  # fmt: skip

    yield _no_bump(plain, smeared)

    share = {
        one.seed: float(in_context(other)[-1] / in_context(one)[-1])
        for one, other in zip(plain, single, strict=True)
    }
    yield finding(
        ONE_LAYER,
        Effect("in-context score of one smeared layer, over that of two plain ones", "1", share),
        Above(0.9),  # "nearly": of nine tenths
    )


def _no_bump(plain: Sequence[Result], smeared: Sequence[Result]) -> Finding:
    # Over the step of a half, since smeared keys are learned earlier. Against plain keys, whose
    # score has an early part too, when the vocabulary of a sequence is learned.
    of_each = [[rise(-in_context(one)).relative_width for one in kind] for kind in (plain, smeared)]
    widths = {
        one.seed: smooth / abrupt for one, abrupt, smooth in zip(plain, *of_each, strict=True)
    }
    named = ["; ".join(f"{width:.2f}" for width in kind) for kind in of_each]
    return finding(
        NO_BUMP,
        Effect("steps from 10% to 90% of the in-context score over the step of 50%, over the same "
               "with plain keys", "1", widths, geometric=True),
        Above(1.0), f"with plain keys {named[0]}, with smeared keys {named[1]}",
    )  # fmt: skip


def _run(layers: int, seed: int, smeared: bool) -> Run:
    # Smeared runs change within 100 steps: with fewer checkpoints no width could be read.
    changes = {"steps": 600, "every": 10} if smeared else {}
    training = substrings(layers, seed, model={"smeared_keys": smeared}, **changes)
    return Run(training, SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS)


EXPERIMENT = Experiment(
    "smeared-keys", "Smeared keys replace the first layer", (EARLIER, NO_BUMP, ONE_LAYER), _answer
)
