"""Several induction heads in one model: a higher rank, or backups of each other?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.heads import induction_heads
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, substrings
from pipeline.measures.subset_ablation import MOST_HEADS

_WANG = "Wang et al. 2023, Interpretability in the Wild, on backup heads"

RANK = Claim(
    "joined-rank",
    "Several induction heads have an OV circuit of a higher rank than one head can have.",
    "Nanda's guess at why models have several induction heads",
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
    "A common explanation of backup heads in models trained with dropout",
)
DROPOUT_BACKUP = Claim(
    "backup-dropout",
    "Dropping heads in training makes the backup by later heads stronger.",
    "A common explanation of backup heads in models trained with dropout",
)

_STEPS = 1200


@dataclass(frozen=True)
class _Heads:
    """The induction heads of a run: their number, and the numbers that decide the claims.

    rank: of the sum of their OV circuits, over d_head. together: the increase of the loss of
    repeated tokens without all of them, over the sum of those without each; 1 for one head.
    backup: the rise of all later heads' direct effects when one is ablated, summed over the
    ablated, over the sum of their own direct effects, final norm frozen; 0 where all of them are in
    the last layer, which no head can replace.
    """

    number: int
    rank: float
    together: float
    backup: float

    @classmethod
    def of(cls, result: Result) -> "_Heads":
        """Read them from the rows of a run's last checkpoint."""
        data, model = result.data, result.run.training.model
        subsets = data["subset_ablation"].repeated_loss.isel(step=-1).load()
        number = int(np.log2(len(subsets)))
        single = subsets.sel(subset=2 ** np.arange(number)).sum()
        return cls(
            number,
            float(data["joined_ov_rank"]["sum"][-1])
            / (model.hidden_size // model.num_attention_heads),
            float(subsets[-1] / single),
            _backup(result, model.num_hidden_layers),
        )


def _backup(result: Result, layers: int) -> float:
    change = result.data["backup"].direct.isel(step=-1).load()
    rise = lost = 0.0
    for name in change["ablated"].values:
        layer, head = map(int, str(name).removeprefix("L").split("H"))
        if layer < layers - 1:
            of_heads = change.sel(ablated=name)
            rise += float(of_heads.sel(layer=slice(layer + 1, None)).sum())
            lost -= float(of_heads.sel(layer=layer, head=head))
    return rise / lost if lost else 0.0


def _measured(runs: Runs, seeds: range, head_dropout: float) -> dict[int, _Heads]:
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
        Run(training, dict.fromkeys(("subset_ablation", "backup", "joined_ov_rank"), heads),
            SUBSTRINGS_INPUTS, last)
        for training, heads in zip(trainings, chosen, strict=True)
    ])  # fmt: skip
    return {one.seed: _Heads.of(one) for one in results}


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    plain, dropped = _measured(runs, seeds, 0.0), _measured(runs, seeds, 0.1)
    without = _number_of_heads(plain)
    both = f"{without}; with head dropout 0.1, {_number_of_heads(dropped)}"

    rank = {seed: of.rank for seed, of in plain.items()}
    # One head has at most d_head.
    yield finding(RANK, Effect("rank of the joined OV over d_head", "1", rank), Above(1.0), without)

    together = {seed: of.together for seed, of in plain.items()}
    yield finding(
        TOGETHER, Effect("loss without all over the sum without each", "1", together, True),
        Above(1.0), without,
    )  # fmt: skip

    backup = {seed: of.backup for seed, of in plain.items()}
    yield finding(
        BACKUP, Effect("share of the lost direct effect that later heads replace", "1", backup),
        Above(0.0), without,
    )  # fmt: skip

    more = {seed: dropped[seed].together / of.together for seed, of in plain.items()}
    yield finding(
        DROPOUT_TOGETHER,
        Effect("that ratio with head dropout over that without", "1", more, True),
        Above(1.0), both,
    )  # fmt: skip

    stronger = {seed: dropped[seed].backup - of.backup for seed, of in plain.items()}
    yield finding(
        DROPOUT_BACKUP, Effect("that share with head dropout minus without", "1", stronger),
        Above(0.0), both,
    )  # fmt: skip


def _number_of_heads(of: dict[int, _Heads]) -> str:
    return f"induction heads by seed: {', '.join(str(one.number) for one in of.values())}"


EXPERIMENT = Experiment(
    "several-induction-heads", "Why several induction heads",
    (RANK, TOGETHER, BACKUP, DROPOUT_TOGETHER, DROPOUT_BACKUP), _answer,
)  # fmt: skip
