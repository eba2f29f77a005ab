"""Several induction heads in one model: a higher rank, or backups of each other?"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.head_group import MEASURES_OF_GROUPS, HeadGroup
from pipeline.experiments.heads import induction_heads
from pipeline.experiments.runs import Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, substrings
from pipeline.experiments.sources import INTERVIEW
from pipeline.measures.subset_ablation import MOST_HEADS

_WANG = "Wang et al. 2023, Interpretability in the Wild, on backup heads"

RANK = Claim(
    "joined-rank",
    "Several induction heads have an OV circuit of a higher rank than one head can have.",
    INTERVIEW,
)
TOGETHER = Claim(
    "removed-together",
    "Removing all induction heads costs more than the sum of removing each alone.",
    _WANG,
)
BACKUP = Claim(
    "backup",
    "When an induction head is ablated, the direct effects of later heads rise.",
    _WANG,
)
DROPOUT_TOGETHER = Claim(
    "removed-together-dropout",
    "Dropping heads in training makes induction heads more redundant.",
    INTERVIEW,
)
DROPOUT_BACKUP = Claim(
    "backup-dropout",
    "Dropping heads in training makes the backup by later heads stronger.",
    INTERVIEW,
)

_STEPS = 1200


def _measured(runs: Runs, seeds: range, head_dropout: float) -> dict[int, HeadGroup]:
    """Train models of three layers, choose the induction heads of each, and measure those."""
    last = {"steps": [_STEPS]}
    trainings = [
        substrings(3, seed, _STEPS, 100, model={"head_dropout": head_dropout}) for seed in seeds
    ]
    scored = runs.results([Run(of, {"head_scores": {}}, SUBSTRINGS_INPUTS, last)
                           for of in trainings])  # fmt: skip
    chosen = [{"heads": [list(head) for head in induction_heads(one, MOST_HEADS)]}
              for one in scored]  # fmt: skip
    results = runs.results([
        Run(training, dict.fromkeys(MEASURES_OF_GROUPS, heads), SUBSTRINGS_INPUTS, last)
        for training, heads in zip(trainings, chosen, strict=True)
    ])  # fmt: skip
    return {one.seed: HeadGroup.of(one) for one in results}


_Value = Callable[[HeadGroup, HeadGroup], float]

# Each claim's effect of models without head dropout and with it, whether that is a ratio, and where
# it is if the claim is true. One head has at most the rank d_head.
_RULES: tuple[tuple[Claim, str, _Value, bool, float], ...] = (
    (RANK, "rank of the joined OV over d_head", lambda plain, _: plain.rank, False, 1.0),
    (TOGETHER, "loss without all over the sum without each",
     lambda plain, _: plain.together, True, 1.0),
    (BACKUP, "share of the lost direct effect that later heads replace",
     lambda plain, _: plain.backup, False, 0.0),
    (DROPOUT_TOGETHER, "that ratio with head dropout over that without",
     lambda plain, dropped: dropped.together / plain.together, True, 1.0),
    (DROPOUT_BACKUP, "that share with head dropout minus without",
     lambda plain, dropped: dropped.backup - plain.backup, False, 0.0),
)  # fmt: skip


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    plain, dropped = _measured(runs, seeds, 0.0), _measured(runs, seeds, 0.1)
    numbers = [", ".join(str(of.number) for of in groups.values()) for groups in (plain, dropped)]
    heads = f"induction heads by seed: {numbers[0]}; with head dropout 0.1: {numbers[1]}"
    found = {
        RANK: "as many heads of random matrices: "
        + _listed(of.random_rank for of in plain.values()),
        TOGETHER: f"loss without 1, 2, ... heads, in nats: {_losses(plain)}",
        DROPOUT_TOGETHER: f"the same with head dropout: {_losses(dropped)}",
    }
    for claim, name, value, ratio, least in _RULES:
        values = {seed: value(of, dropped[seed]) for seed, of in plain.items()}
        said = "; ".join([heads, *([found[claim]] if claim in found else [])])
        yield finding(claim, Effect(name, "1", values, ratio), Above(least), said)


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in numbers)


def _losses(groups: Mapping[int, HeadGroup]) -> str:
    """Return the increases of the loss by the number of removed heads, of each seed."""
    return "; ".join(_listed(of.by_count) for of in groups.values())


EXPERIMENT = Experiment(
    "several-induction-heads", "Why several induction heads",
    tuple(claim for claim, *_ in _RULES), _answer,
)  # fmt: skip
