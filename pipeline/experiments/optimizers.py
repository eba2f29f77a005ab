"""Two needs of grokking: weight decay, and AdamW?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import (
    ANSWERED,
    PROBABILITY,
    by_seed,
    generalised_at,
    probability,
    progress,
)
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import MODULAR_MEASURES, modular
from pipeline.experiments.sources import INTERVIEW, NANDA

NO_DECAY = Claim(
    "no-decay",
    "Without weight decay, a model has not generalised by the time at which it has with it.",
    f"{NANDA}, section 5.3",
)
SGD = Claim(
    "grokking-sgd",
    "Grokking does not need AdamW: SGD with momentum and weight decay does it, too.",
    INTERVIEW,
)
_MEASURES = {"modular_addition": {}}
# Twice the rate, or three times the decay, diverges; without clipping one seed of five does.
_SGD = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3,
        "betas": (0.9, 0.999), "warmup_steps": 0, "clip_norm": 1.0}  # fmt: skip


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular`, with and without decay."""
    seeds = range(3 if runs.quick else 5)
    optimizer = {**setting.get("optimizer", {}), "weight_decay": 0.0}
    changed = {**setting, "optimizer": optimizer}
    results = runs.results(
        [Run(modular(seed=seed, **setting), MODULAR_MEASURES) for seed in seeds]
        + [Run(modular(seed=seed, **changed), _MEASURES) for seed in seeds]
    )
    decayed, undecayed = results[: len(seeds)], results[len(seeds) :]
    by_then = {one.seed: _known_by_then(one, other)
               for one, other in zip(undecayed, decayed, strict=True)}  # fmt: skip
    # 0.1 nats, the loss at which a run counts as generalised wherever this package dates it.
    yield finding(
        NO_DECAY,
        Effect("probability of a test pair's answer when the run with decay generalises", "1",
               by_then),
        Below(ANSWERED), f"at steps {', '.join(str(generalised_at(one)) for one in decayed)}",
    )  # fmt: skip

    sgd = runs.results([_by_sgd(seed, 2500 if runs.quick else 5000) for seed in seeds])
    yield finding(SGD, Effect(PROBABILITY, "1", by_seed(sgd, probability)), Above(ANSWERED))


def _known_by_then(undecayed: Result, decayed: Result) -> float:
    """Return the probability at the step at which another run generalises; NaN if it never does."""
    step = generalised_at(decayed)
    return (
        np.nan if step is None else float(np.exp(-progress(undecayed)["test_loss"].sel(step=step)))
    )


def _by_sgd(seed: int, steps: int) -> Run:
    training = modular(
        31, 0.6, seed, steps, name="modular-31-sgd", optimizer=_SGD,
        model={"hidden_size": 32, "intermediate_size": 128},
        checkpoints={"log_until": 16, "every": 50},
    )  # fmt: skip
    return Run(training, _MEASURES)


EXPERIMENT = Experiment(
    "optimizers", "What grokking needs of the optimizer", (NO_DECAY, SGD), answer
)
