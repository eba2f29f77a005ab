"""Is knowing that five preceding tokens repeat worth more than knowing that one does?"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.experiments.claims import Above, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import substrings, text
from pipeline.experiments.sources import INTERVIEW
from pipeline.training import Training

ON_TEXT = Claim(
    "five-tokens-text",
    "In text, knowing that the five preceding tokens repeat is worth more than knowing that one "
    "does.",
    INTERVIEW,
)
ON_SUBSTRINGS = Claim(
    "five-tokens-substrings",
    "In random tokens with a repeated substring, knowing that the five preceding tokens repeat is "
    "worth more than knowing that one does.",
    INTERVIEW,
)

# In the standard library's source, the same token follows again after 26% of matches of one token
# and 70% of those of five: to know that is worth ln(0.70 / 0.26) = 1.0 nats, of which a tenth
# counts as used.
_USED = 0.1

_REPLACED = {"": "nothing", "_earlier": "earlier", "_last": "last"}


def _inputs(sequences: int) -> Mapping[str, Mapping]:
    """Return held-out sequences with a repeat, clean and with two corruptions of its source."""
    of = {"kind": "natural_matches", "match": 5, "sequences": sequences}
    return {f"natural_matches{end}": {**of, "replaced": what} for end, what in _REPLACED.items()}


def _run(training: Training, sequences: int) -> Run:
    last = {"steps": [training.steps]}
    return Run(training, {"source_corruption": {}}, _inputs(sequences), last)


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds, text_seeds = (range(3), ()) if runs.quick else (range(5), range(5))
    on_text = [_run(text(2, seed, task={"path": runs.text}), 1000) for seed in text_seeds]
    on_substrings = [_run(substrings(2, seed), 1000) for seed in seeds]
    results = runs.results(on_text + on_substrings)
    yield _worth(ON_TEXT, results[: len(on_text)])
    yield _worth(ON_SUBSTRINGS, results[len(on_text) :])


def _worth(claim: Claim, results: Sequence[Result]) -> Finding:
    costs = {one.seed: _last(one, "earlier_cost") for one in results}
    ends = sum(_last(one, "last_cost") for one in results) / max(len(results), 1)
    error = max((_last(one, "earlier_cost_error") for one in results), default=0.0)
    return finding(
        claim,
        Effect("loss after a repeat when the first four of five tokens are corrupted, minus clean",
               "nats", costs),
        Above(_USED),
        f"standard error over sequences at most {error:.3f}; corrupting the last of the five "
        f"tokens alone costs {ends:.2f} nats",
    )  # fmt: skip


def _last(result: Result, name: str) -> float:
    return float(result.group("source_corruption")[name][-1])


EXPERIMENT = Experiment(
    "five-tokens", "Five repeated tokens against one", (ON_TEXT, ON_SUBSTRINGS), _answer
)
