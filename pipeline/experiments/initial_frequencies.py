"""Key frequencies at initialisation: does the embedding's first draw favour them?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import by_seed
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import modular
from pipeline.experiments.sources import INTERVIEW
from pipeline.measures.lottery_ticket import share_above

NORM = Claim(
    "keys-by-norm",
    "Key frequencies have more of the initial embedding's norm than other frequencies.",
    INTERVIEW,
)
TICKET = Claim(
    "keys-by-direction",
    "Along the directions of the final circuit, the initial embedding has more power at its key "
    "frequencies than other frequencies have along theirs.",
    INTERVIEW,
)


def answer(runs: Runs, **setting: Any) -> Iterator[Finding]:
    """Yield the findings. setting: changes of `settings.modular`."""
    # The percentile of one run's few keys scatters widely: more seeds than elsewhere.
    seeds = range(5 if runs.quick else 12)
    trainings = [modular(seed=seed, **setting) for seed in seeds]
    ends = {"steps": (0, trainings[0].steps)}
    measures = {"modular_addition": {}, "lottery_ticket": {}}
    trained = runs.results([Run(one, measures, select=ends) for one in trainings])
    # A half by chance: keys of a run are compared with the other frequencies of the same run.
    name = "share of pairs of a key and another frequency in which the key is above"
    yield finding(NORM, Effect(name, "1", by_seed(trained, _by_norm)), Above(0.5))
    yield finding(
        TICKET, Effect(name, "1", by_seed(trained, _by_direction)), Above(0.5),
        "the directions are those of the end, which have grown from the start's for key "
        "frequencies and have decayed for others: keys that chance had chosen would be above, too",
    )  # fmt: skip


def _by_norm(result: Result) -> float:
    group = result.group("modular_addition")
    keys = group.attrs["reference_values"]["key_frequencies"]
    norm = group["embedding_norm"].sel(step=0).load()
    is_key = np.isin(norm["frequency"].values, keys)
    return share_above(norm.values[is_key], norm.values[~is_key])


def _by_direction(result: Result) -> float:
    return float(result.group("lottery_ticket")["keys_above_others"].sel(step=0))


EXPERIMENT = Experiment(
    "initial-frequencies", "Key frequencies at initialisation", (NORM, TICKET), answer
)
