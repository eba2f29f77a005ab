"""Previous-token and induction heads: do they compose by keys, and only by keys?"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.experiments.claims import Above, Below, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.heads import FORMED, strongest_head
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, substrings

_ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"

WEIGHTS = Claim(
    "k-composition-in-weights",
    "The induction head reads the previous-token head by its keys more than by queries or values.",
    _ELHAGE,
)
CAUSE = Claim(
    "k-composition-is-enough",
    "The previous-token head serves induction through the keys of later heads.",
    _ELHAGE,
)
ONLY = Claim(
    "only-k-composition",
    "Previous-token and induction heads compose by keys only: not through queries or values.",
    f"{_ELHAGE}; its author doubts it",
)
ONLY_WEIGHTS = Claim(
    "only-k-composition-in-weights",
    "Q- and V-composition of the two heads are those of random matrices.",
    _ELHAGE,
)
PATTERNS_KEPT = Claim(
    "patterns-kept",
    "With attention patterns kept, in-context learning does not need the previous-token head.",
    "Olsson et al. 2022, In-context Learning and Induction Heads, argument 3",
)

# What counts as nothing, of an effect or of a composition; the rest counts as all of it.
_NOTHING = 0.1


@dataclass(frozen=True)
class _Pair:
    """The strongest previous-token head of layer 0 and the strongest induction head after it.

    above: its k, q and v composition minus that of random matrices. cost: the increase of the loss
    of repeated tokens without the previous-token head, by what the ablation acts through.
    """

    above: dict[str, float]
    cost: dict[str, float]
    formed: bool

    @classmethod
    def of(cls, result: Result) -> "_Pair":
        """Read the pair of a run with two layers."""
        scores = result.data["head_scores"].sel(layer=[0]).previous_token
        later = result.data["head_scores"].sel(layer=[1]).induction
        (_, earlier), (_, head) = strongest_head(scores), strongest_head(later)
        pair = result.data["composition"].to_dataset().isel(step=-1).sel(
            layer_from=0, head_from=earlier, layer_to=1, head_to=head
        )  # fmt: skip
        costs = result.data["path_ablation"].repeated_loss.isel(step=-1)
        costs = costs.sel(layer=0, head=earlier).load()
        return cls(
            {path: float(pair[path] - pair[f"{path}_baseline"]) for path in "kqv"},
            {str(of): float(costs.sel(through=of)) for of in costs["through"].values},
            bool(min(scores.isel(step=-1).max(), later.isel(step=-1).max()) >= FORMED),
        )

    def share(self, through: str) -> float:
        """Return the share of the effect on later heads that acts through k, q, v or several."""
        direct = self.cost["direct"]
        return (self.cost[through] - direct) / (self.cost["kqv"] - direct)


def _answer(runs: Runs) -> Iterator[Finding]:
    steps = 1200
    measures = {"head_scores": {}, "composition": {}, "path_ablation": {}}
    results = runs.results(
        [
            Run(substrings(2, seed, steps), measures, SUBSTRINGS_INPUTS, {"steps": [steps]})
            for seed in range(3 if runs.quick else 5)
        ]
    )
    pairs = {one.seed: _Pair.of(one) for one in results}
    formed = f"both heads formed in {sum(of.formed for of in pairs.values())} of {len(pairs)} runs"

    lead = {seed: of.above["k"] - max(of.above["q"], of.above["v"]) for seed, of in pairs.items()}
    yield finding(
        WEIGHTS, Effect("K-composition minus the larger of Q and V", "1", lead), Above(0.0), formed
    )

    through_keys = {seed: of.share("k") for seed, of in pairs.items()}
    yield finding(
        CAUSE, Effect("share of the effect on later heads through keys alone", "1", through_keys),
        Above(1 - _NOTHING), formed,
    )  # fmt: skip

    keys_kept = {seed: of.share("qv") for seed, of in pairs.items()}
    yield finding(
        ONLY, Effect("share of the effect on later heads with keys kept", "1", keys_kept),
        Between(-_NOTHING, _NOTHING), formed,
    )  # fmt: skip

    other = {seed: max(of.above["q"], of.above["v"]) / of.above["k"] for seed, of in pairs.items()}
    yield finding(
        ONLY_WEIGHTS,
        Effect("larger of Q and V above random matrices, over K above them", "1", other),
        Below(_NOTHING), formed,
    )  # fmt: skip

    remaining = {seed: of.cost["v"] / of.cost["kqv"] for seed, of in pairs.items()}
    yield finding(
        PATTERNS_KEPT, Effect("share of the head's effect with patterns kept", "1", remaining),
        Below(_NOTHING), formed,
    )  # fmt: skip


EXPERIMENT = Experiment(
    "composition", "Previous-token and induction heads compose by keys",
    (WEIGHTS, CAUSE, ONLY, ONLY_WEIGHTS, PATTERNS_KEPT), _answer,
)  # fmt: skip
