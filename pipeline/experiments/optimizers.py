"""Two needs of grokking: weight decay, and AdamW?"""

from collections.abc import Iterator
from typing import Any

from pipeline.experiments.claims import Above, Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import ANSWERED, PROBABILITY, by_seed, probability
from pipeline.experiments.runs import Run, Runs
from pipeline.experiments.settings import modular
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
# Twice the rate, or three times the decay, diverges.
_SGD = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3,
        "betas": (0.9, 0.999), "warmup_steps": 0}  # fmt: skip


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular` without weight decay."""
    seeds = range(3 if runs.quick else 5)
    optimizer = {**setting.get("optimizer", {}), "weight_decay": 0.0}
    trainings = [modular(seed=seed, **{**setting, "optimizer": optimizer}) for seed in seeds]
    undecayed = runs.results([Run(one, _MEASURES) for one in trainings])
    # 0.1 nats, the loss at which a run counts as generalised wherever this package dates it.
    without = Effect(PROBABILITY, "1", by_seed(undecayed, probability))
    yield finding(NO_DECAY, without, Below(ANSWERED))

    sgd = runs.results([_by_sgd(seed, 2500 if runs.quick else 5000) for seed in seeds])
    yield finding(SGD, Effect(PROBABILITY, "1", by_seed(sgd, probability)), Above(ANSWERED))


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
