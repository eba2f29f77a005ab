"""Each part of the induction circuit makes the other easy: heads put into fresh models."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.experiments.claims import Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.formation import formed_at, strongest
from pipeline.experiments.heads import strongest_head
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import SUBSTRINGS_INPUTS, SUBSTRINGS_MEASURES, substrings
from pipeline.experiments.sources import INTERVIEW
from pipeline.models.head_names import head_name

FROM_PREVIOUS = Claim(
    "previous-token-head-helps",
    "A finished previous-token head in a fresh model makes induction heads form sooner.",
    INTERVIEW,
)
FROM_PATTERN = Claim(
    "previous-token-pattern-helps",
    "A head that always attends to the previous token makes induction heads form sooner.",
    INTERVIEW,
)
FROM_INDUCTION = Claim(
    "induction-head-helps",
    "A finished induction head in a fresh model makes previous-token heads form sooner.",
    INTERVIEW,
)

_EMBEDDING, _POSITIONS = "model.embed_tokens.weight", "model.embed_positions.weight"
_UNEMBEDDING = "lm_head.weight"
_OTHER = 100  # seeds of models that parts are put into: a donor's seed and this
_PREVIOUS_TOKEN_FORMS = 0.5  # more than the half of a head that is spread over two tokens


def _answer(runs: Runs) -> Iterator[Finding]:
    seeds = range(3 if runs.quick else 5)
    donors = runs.results([_run(seed) for seed in seeds])
    variants = [[_fresh(one.seed, **of(one)) for one in donors]
                for of in (_embedding, _previous_token, _both_embeddings, _induction)]  # fmt: skip
    plain = [_fresh(seed) for seed in seeds]
    fixed = [_fresh(seed, model={"fixed_attention": {"L0H0": 1}}) for seed in seeds]
    groups = [*variants, plain, fixed]
    results = runs.results([run for group in groups for run in group])
    n = len(seeds)
    embedding, previous, embeddings, induction, alone, pattern = (
        results[i * n : (i + 1) * n] for i in range(len(groups))
    )

    yield _sooner(FROM_PREVIOUS, previous, embedding, "with the donor's embedding alone")
    yield _sooner(FROM_PATTERN, pattern, alone, "without it")
    yield _sooner(
        FROM_INDUCTION, induction, embeddings, "with the donor's embeddings alone",
        score="previous_token", layer=0, threshold=_PREVIOUS_TOKEN_FORMS,
    )  # fmt: skip


def _run(seed: int, **changes: Any) -> Run:
    return Run(substrings(2, seed, **changes), SUBSTRINGS_MEASURES, SUBSTRINGS_INPUTS)


def _fresh(seed: int, **changes: Any) -> Run:
    """Return the run of another model than that of the seed, until heads have formed in most."""
    return _run(_OTHER + seed, steps=800, **changes)


# A donor's head reads the donor's embedding: that is put in too, and is all of the control.
def _embedding(donor: Result) -> Mapping[str, Any]:
    return _kept(donor, [_EMBEDDING, _POSITIONS])


def _previous_token(donor: Result) -> Mapping[str, Any]:
    layer, head = strongest_head(donor.group("head_scores").previous_token.sel(layer=[0]))
    return _kept(donor, [_EMBEDDING, _POSITIONS], [head_name(layer, head)])


def _both_embeddings(donor: Result) -> Mapping[str, Any]:
    return _kept(donor, [_EMBEDDING, _POSITIONS, _UNEMBEDDING])


def _induction(donor: Result) -> Mapping[str, Any]:
    layer, head = strongest_head(donor.group("head_scores").induction.sel(layer=[1]))
    return _kept(donor, [_EMBEDDING, _POSITIONS, _UNEMBEDDING], [head_name(layer, head)])


def _kept(donor: Result, parameters: Sequence[str], heads: Sequence[str] = ()) -> dict[str, Any]:
    part = {"checkpoint": donor.checkpoint(), "parameters": parameters, "heads": heads}
    return {"keep": [part]}


def _sooner(
    claim: Claim, with_part: Sequence[Result], control: Sequence[Result], against: str,
    score: str = "induction", layer: int = 1, threshold: float = 0.3,
) -> Finding:  # fmt: skip
    """Judge whether heads of a score form sooner with a part than in the controls."""
    forms = [[formed_at(strongest(one, score, layer), threshold) for one in group]
             for group in (with_part, control)]  # fmt: skip
    ratios = {
        one.seed - _OTHER: a / b for one, (a, _), (b, _) in zip(with_part, *forms, strict=True)
    }
    formed = [sum(has for _, has in group) for group in forms]
    steps = ["/".join(f"{step:.0f}" for step, _ in group) for group in forms]
    found = (
        f"at steps {steps[0]}, against {steps[1]} {against}; formed in {formed[0]} and "
        f"{formed[1]} of {len(control)} runs, else the last step is taken"
    )
    name = f"step at which {score.replace('_', '-')} heads form, over that of the control"
    return finding(claim, Effect(name, "1", ratios, geometric=True), Below(1.0), found)


EXPERIMENT = Experiment(
    "transplants", "Each part of the induction circuit makes the other easy",
    (FROM_PREVIOUS, FROM_PATTERN, FROM_INDUCTION), _answer,
)  # fmt: skip
