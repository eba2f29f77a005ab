"""Previous-token and induction heads: do they compose by keys, and only by keys?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.experiments.claims import Above, Below, Between, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.heads import Head, heads_above, strongest_head
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
    "Previous-token heads serve induction through the keys of later heads.",
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
    "With attention patterns kept, in-context learning does not need previous-token heads.",
    f"{OLSSON}, argument 3",
)

# What counts as nothing, of an effect or of a composition; the rest counts as all of it.
_NOTHING = 0.1
_MOSTLY = 0.5  # a previous-token head attends to that token more than to all others together


@dataclass(frozen=True)
class _Heads:
    """The previous-token heads of layer 0, and the strongest induction head after them.

    above: k, q and v composition of the strongest pair, minus that of random matrices; largest: of
    the pair of heads which has the most. cost: the increase of the loss of repeated tokens without
    all previous-token heads (which stand in for each other), by what the ablation acts through.
    """

    number: int
    above: dict[str, float]
    largest: dict[str, float]
    cost: dict[str, float]

    @classmethod
    def of(cls, scored: Result, ablated: Result) -> "_Heads":
        """Read them from two results of a run: scores, and the ablation of the chosen heads."""
        chosen = _previous_token_heads(scored)
        _, head = strongest_head(scored.group("head_scores").induction.sel(layer=[1]))
        pairs = scored.group("composition").isel(step=-1)
        above = {path: pairs[path] - pairs[f"{path}_baseline"] for path in "kqv"}
        pair = {"layer_from": 0, "head_from": chosen[0][1], "layer_to": 1, "head_to": head}
        cost = ablated.group("path_ablation").together_repeated_loss.isel(step=-1).load()
        return cls(
            len(chosen),
            {path: float(of.sel(pair)) for path, of in above.items()},
            {path: float(of.max()) for path, of in above.items()},
            {str(through): float(cost.sel(through=through)) for through in cost["through"].values},
        )

    def share(self, through: str) -> float:
        """Return the share of the effect on later heads that acts through k, q, v or several."""
        direct = self.cost["direct"]
        return (self.cost[through] - direct) / (self.cost["kqv"] - direct)


def _previous_token_heads(result: Result) -> list[Head]:
    return heads_above(result.group("head_scores").previous_token.sel(layer=[0]), _MOSTLY)


# Each claim's effect, and where that is if the claim is true.
_RULES: tuple[tuple[Claim, str, Callable[[_Heads], float], Between], ...] = (
    (WEIGHTS, "K-composition minus the larger of Q and V",
     lambda of: of.above["k"] - max(of.above["q"], of.above["v"]), Above(0.0)),
    (CAUSE, "share of the effect on later heads through keys alone",
     lambda of: of.share("k"), Above(1 - _NOTHING)),
    (ONLY, "share of the effect on later heads with keys kept",
     lambda of: of.share("qv"), Between(-_NOTHING, _NOTHING)),
    (ONLY_WEIGHTS, "largest Q or V of all pairs above random matrices, over the largest K",
     lambda of: max(of.largest["q"], of.largest["v"]) / of.largest["k"], Below(_NOTHING)),
    (PATTERNS_KEPT, "share of their effect with patterns kept",
     lambda of: of.cost["v"] / of.cost["kqv"], Below(_NOTHING)),
)  # fmt: skip


def _answer(runs: Runs) -> Iterator[Finding]:
    last = {"steps": [1200]}
    trainings = [substrings(2, seed, 1200) for seed in range(3 if runs.quick else 5)]
    scores = {"head_scores": {}, "composition": {}}
    scored = runs.results([Run(of, scores, SUBSTRINGS_INPUTS, last) for of in trainings])
    ablations = [{"path_ablation": {"heads": [list(head) for head in _previous_token_heads(one)]}}
                 for one in scored]  # fmt: skip
    ablated = runs.results([Run(of, heads, SUBSTRINGS_INPUTS, last)
                            for of, heads in zip(trainings, ablations, strict=True)])  # fmt: skip
    found = {one.seed: _Heads.of(one, of) for one, of in zip(scored, ablated, strict=True)}
    numbers = ", ".join(str(of.number) for of in found.values())
    for claim, name, value, holds in _RULES:
        effect = Effect(name, "1", {seed: value(of) for seed, of in found.items()})
        yield finding(claim, effect, holds, f"previous-token heads by seed: {numbers}")


EXPERIMENT = Experiment(
    "composition", "Previous-token and induction heads compose by keys",
    tuple(claim for claim, *_ in _RULES), _answer,
)  # fmt: skip
