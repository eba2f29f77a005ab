"""Other operations than addition: do models generalise on them, and by the same algorithm?"""

from collections.abc import Iterator

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.generalisation import (
    ANSWERED,
    PROBABILITY,
    by_seed,
    last_value,
    median_of_last,
    probability,
)
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import modular
from pipeline.experiments.sources import INTERVIEW

_CHUGHTAI = "Chughtai et al. 2023, A Toy Model of Universality"
_BY_WAVES = "cosines of key frequencies explain most of the logits: the same algorithm"
SUBTRACT = Claim("subtract", "Models generalise on a - b mod p.", INTERVIEW)
SUBTRACT_WAVES = Claim("subtract-waves", f"In models of a - b, {_BY_WAVES}.", INTERVIEW)
MULTIPLY = Claim("multiply", "Models generalise on a b mod p.", INTERVIEW)
MULTIPLY_WAVES = Claim(
    "multiply-waves", f"In models of a b, by discrete logarithms, {_BY_WAVES}.", INTERVIEW
)
ADD_ORBITS = Claim(
    "add-orbits", "On addition, models generalise also where (b, a) is on the side of (a, b).",
    "a control for a² + b²",
)  # fmt: skip
SQUARES = Claim(
    "squares",
    "On a² + b², they generalise where no symmetry of the table gives test answers away.",
    INTERVIEW,
)
PERMUTATIONS = Claim(
    "permutations", "Models generalise on compositions of permutations.", _CHUGHTAI
)
CHARACTERS = Claim(
    "permutation-characters",
    "In models of compositions of permutations, characters of irreducible representations explain "
    "most of the logits.",
    _CHUGHTAI,
)
_MEASURES = {"modular_addition": {}}
_ORBITS = {"split_generator": "orbits"}


def answer(runs: Runs) -> Iterator[Finding]:
    """Yield the findings."""
    seeds = range(3 if runs.quick else 5)
    kinds = {
        SUBTRACT: [_run("subtract", 0.7, s) for s in seeds],
        MULTIPLY: [_run("multiply", 0.5, s) for s in seeds],
        ADD_ORBITS: [_run("add", 0.75, s, **_ORBITS) for s in seeds],
        SQUARES: [_run("x2_y2", 0.75, s, **_ORBITS) for s in seeds],
        # Some minutes each.
        PERMUTATIONS: [] if runs.quick else [_permutations(s) for s in range(3)],
    }
    results = iter(runs.results([run for of_kind in kinds.values() for run in of_kind]))
    trained = {claim: [next(results) for _ in of_kind] for claim, of_kind in kinds.items()}
    for claim in (SUBTRACT, MULTIPLY):
        yield _known(claim, trained[claim])
        waves = SUBTRACT_WAVES if claim is SUBTRACT else MULTIPLY_WAVES
        yield _explained(waves, by_seed(trained[claim], _by_waves))
    for claim in (ADD_ORBITS, SQUARES, PERMUTATIONS):
        yield _known(claim, trained[claim])
    yield _explained(CHARACTERS, by_seed(trained[PERMUTATIONS], _by_characters))


def _run(operation: str, share: float, seed: int, **task: str) -> Run:
    task = {"operation": operation, **task}
    return Run(modular(41, share, seed, name=f"modular-{operation}", task=task), _MEASURES)


def _permutations(seed: int) -> Run:
    training = modular(
        120, 0.6, seed, 2000, name="permutations", task={"operation": "compose"},
        checkpoints={"log_until": 16, "every": 100},
    )  # fmt: skip
    return Run(training, {**_MEASURES, "permutation_characters": {}})


def _known(claim: Claim, results: list[Result]) -> Finding:
    return finding(claim, Effect(PROBABILITY, "1", by_seed(results, probability)), Above(ANSWERED))


def _explained(claim: Claim, shares: dict[int, float]) -> Finding:
    # More than half: more than everything else together.
    return finding(claim, Effect("share of the logits' variance", "1", shares), Above(0.5))


def _by_waves(result: Result) -> float:
    return last_value(result, "modular_addition", "logit_variance_explained")


def _by_characters(result: Result) -> float:
    share = result.group("permutation_characters")["variance_explained"].sortby("step")
    # The first is the trivial one, which has no variance.
    of_all = share.isel(irreducible=slice(1, None)).sum("irreducible", skipna=False)
    return median_of_last(of_all.values)


EXPERIMENT = Experiment(
    "other-operations",
    "The algorithm for addition, on other operations",
    (SUBTRACT, SUBTRACT_WAVES, MULTIPLY, MULTIPLY_WAVES, ADD_ORBITS, SQUARES, PERMUTATIONS,
     CHARACTERS),
    answer,
)  # fmt: skip
