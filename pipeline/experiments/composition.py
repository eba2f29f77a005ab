"""Previous-token and induction heads: do they compose by keys, and only by keys?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.experiments.claims import Above, Below, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.heads import FORMED, strongest_head
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, substrings
from pipeline.experiments.sources import ELHAGE, INTERVIEW, OLSSON

WEIGHTS = Claim(
    "k-composition-in-weights",
    "The induction head reads the previous-token head by its keys more than by queries or values.",
    ELHAGE,
)
CAUSE = Claim(
    "k-composition-is-enough",
    "The previous-token head serves induction through the keys of later heads.",
    ELHAGE,
)
ONLY = Claim(
    "only-k-composition",
    "Previous-token and induction heads compose by keys only: not through queries or values.",
    f"{ELHAGE}; doubted in {INTERVIEW}",
)
ONLY_WEIGHTS = Claim(
    "only-k-composition-in-weights",
    "The heads of two layers do not compose by queries or values at all.",
    ELHAGE,
)
PATTERNS_KEPT = Claim(
    "patterns-kept",
    "With attention patterns kept, in-context learning does not need the previous-token head.",
    f"{OLSSON}, argument 3",
)

# What counts as nothing, of an effect or of a composition; the rest counts as all of it.
_NOTHING = 0.1


@dataclass(frozen=True)
class _Pair:
    """The strongest previous-token head of layer 0 and the strongest induction head after it.

    above: its k, q and v composition minus that of random matrices; largest: that of the pair of
    heads which has the most. cost: the increase of the loss of repeated tokens without the
    previous-token head, by what the ablation acts through.
    """

    above: dict[str, float]
    largest: dict[str, float]
    cost: dict[str, float]
    formed: bool

    @classmethod
    def of(cls, result: Result) -> "_Pair":
        """Read the pair of a run with two layers."""
        scores = result.data["head_scores"].sel(layer=[0]).previous_token
        later = result.data["head_scores"].sel(layer=[1]).induction
        (_, earlier), (_, head) = strongest_head(scores), strongest_head(later)
        pairs = result.data["composition"].to_dataset().isel(step=-1)
        above = {path: pairs[path] - pairs[f"{path}_baseline"] for path in "kqv"}
        pair = {"layer_from": 0, "head_from": earlier, "layer_to": 1, "head_to": head}
        costs = result.data["path_ablation"].repeated_loss.isel(step=-1)
        costs = costs.sel(layer=0, head=earlier).load()
        return cls(
            {path: float(of.sel(pair)) for path, of in above.items()},
            {path: float(of.max()) for path, of in above.items()},
            {str(of): float(costs.sel(through=of)) for of in costs["through"].values},
            bool(min(scores.isel(step=-1).max(), later.isel(step=-1).max()) >= FORMED),
        )

    def share(self, through: str) -> float:
        """Return the share of the effect on later heads that acts through k, q, v or several."""
        direct = self.cost["direct"]
        return (self.cost[through] - direct) / (self.cost["kqv"] - direct)


_Value = Callable[[_Pair], float]

# Each claim's effect, and where that is if the claim is true.
_RULES: tuple[tuple[Claim, str, _Value, Between], ...] = (
    (WEIGHTS, "K-composition minus the larger of Q and V",
     lambda of: of.above["k"] - max(of.above["q"], of.above["v"]), Above(0.0)),
    (CAUSE, "share of the effect on later heads through keys alone",
     lambda of: of.share("k"), Above(1 - _NOTHING)),
    (ONLY, "share of the effect on later heads with keys kept",
     lambda of: of.share("qv"), Between(-_NOTHING, _NOTHING)),
    (ONLY_WEIGHTS, "largest Q or V of all pairs above random matrices, over the largest K",
     lambda of: max(of.largest["q"], of.largest["v"]) / of.largest["k"], Below(_NOTHING)),
    (PATTERNS_KEPT, "share of the head's effect with patterns kept",
     lambda of: of.cost["v"] / of.cost["kqv"], Below(_NOTHING)),
)  # fmt: skip


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
    for claim, name, value, holds in _RULES:
        effect = Effect(name, "1", {seed: value(of) for seed, of in pairs.items()})
        yield finding(claim, effect, holds, formed)


EXPERIMENT = Experiment(
    "composition", "Previous-token and induction heads compose by keys",
    tuple(claim for claim, *_ in _RULES), _answer,
)  # fmt: skip
