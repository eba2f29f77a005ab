"""An experiment on models that are trained in a second."""

from collections.abc import Iterator

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Run, Runs
from pipeline.experiments.settings import modular

CLAIM = Claim("weights-have-a-norm", "Weights | have a *norm*.", "everybody")


def run(seed: int = 0, **changes) -> Run:
    tiny = {"num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
    changes["model"] = {**tiny, **changes.get("model", {})}
    training = modular(5, 0.6, seed, 20, checkpoints={"every": 10}, **changes)
    return Run(training, {"weight_norm": {}})


def _answer(runs: Runs) -> Iterator[Finding]:
    norms = {
        one.seed: float(one.group("weight_norm").sum_of_squares[-1])
        for one in runs.results([run(seed) for seed in range(2)])
    }
    yield finding(CLAIM, Effect("sum of squares", "1", norms), Above(0.0), "all are positive")


TINY = Experiment("tiny", "A tiny experiment", (CLAIM,), _answer)
