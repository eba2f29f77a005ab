"""The table of claims: what is claimed against what was found, as rows and as Markdown."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.experiments.claims import Finding
from pipeline.experiments.experiment import Outcome
from pipeline.findings.number_format import number
from pipeline.printable import markdown

COLUMNS = ("claim", "verdict", "effect", "95% interval", "seeds")


def finding_row(found: Finding) -> dict[str, str]:
    """Return a finding as a row of the table."""
    unit = "" if found.effect.unit == "1" else f" {found.effect.unit}"
    return {
        "claim": found.claim.sentence,
        "verdict": found.verdict,
        "effect": f"{found.effect.name}: {_number(found.mean)}{unit}",
        "95% interval": f"{_number(found.low)} to {_number(found.high)}"
        if math.isfinite(found.low)
        else "none",
        "seeds": str(len(found.effect.by_seed)),
    }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON, with the values of each seed; None where undefined."""
    return {
        "experiment": outcome.experiment.name,
        "title": outcome.experiment.title,
        "quick": outcome.quick,
        "seconds": round(outcome.seconds, 1),
        "stores": list(outcome.stores),
        "claims": [
            {
                "claim": one.claim.name, "sentence": one.claim.sentence,
                "source": one.claim.source, "verdict": one.verdict, "rule": one.rule,
                "found": one.found, "effect": one.effect.name, "unit": one.effect.unit,
                "mean": _finite(one.mean), "low": _finite(one.low), "high": _finite(one.high),
                "by_seed": {str(seed): _finite(v) for seed, v in one.effect.by_seed.items()},
            }
            for one in outcome.findings
        ],
    }  # fmt: skip


def markdown_page(outcomes: Sequence[Outcome], failed: Sequence[str], command: str) -> str:
    """Return the page of claims: a table for each experiment, with its rules and its time.

    failed: a sentence for each experiment that could not be carried out.
    """
    quick = any(one.quick for one in outcomes)
    lines = [
        "# Claims of the field, tested",
        "",
        f"`{command}` trains and analyses the models, and writes this page"
        + (", here **quick**: with fewer seeds and shorter runs." if quick else "."),
        "A claim holds if the whole 95% interval of the effect over seeds (Student's t) is where "
        "the rule says, does not hold if the whole interval is elsewhere, and else is undecided. "
        "Times are seconds of one processor core for all claims of an experiment together; runs "
        "that experiments share are counted in each.",
        *(f"\nNot carried out: {markdown(one)}" for one in failed),
    ]
    for outcome in outcomes:
        lines += ["", f"## {markdown(outcome.experiment.title)}", ""]
        lines += [f"`ontogeny experiment {outcome.experiment.name}`"]
        lines += ["", *_table(outcome)]
        lines += ["", *_notes(outcome)]
    return "\n".join([*lines, ""])


def _table(outcome: Outcome) -> list[str]:
    names = [*COLUMNS, "time (s)"]
    time = f"{outcome.seconds:,.0f}"
    rows = [[*map(finding_row(one).get, COLUMNS), time] for one in outcome.findings]
    cells = [[markdown(str(cell)) for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [names, ["---"] * len(names), *cells]]


def _notes(outcome: Outcome) -> list[str]:
    """Return rule, source and what was found of each claim, as a list."""
    said = [f"{one.claim.sentence} Source: {one.claim.source}. It holds if {one.rule}."
            for one in outcome.findings]  # fmt: skip
    found = [f" Found: {one.found}." if one.found else "" for one in outcome.findings]
    return [f"- {markdown(a + b)}" for a, b in zip(said, found, strict=True)]


def _number(value: float) -> str:
    return number(value) if math.isfinite(value) else "undefined"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
