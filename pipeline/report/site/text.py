"""Sentences with the heads in them as links, and the title that a run's findings give."""

import re
from collections.abc import Collection

import numpy as np
from markupsafe import Markup, escape

from pipeline.aggregate.phases import milestones
from pipeline.findings.heads import onsets
from pipeline.printable import printable
from pipeline.report.site.heads import main_scores
from pipeline.report.site.run_data import Run

_HEAD = re.compile(r"\bL\d+H\d+\b")


def linked(text: str, names: Collection[str]) -> Markup:
    """Return a text, escaped, in which heads of these names link to their pages."""
    found, last = Markup(""), 0
    for match in _HEAD.finditer(text := printable(text)):
        if match[0] in names:
            link = Markup('<a href="head-{0}.html">{0}</a>').format(match[0])
            found += escape(text[last : match.start()]) + link
            last = match.end()
    return found + escape(text[last:])


def title_of(run: Run) -> str:
    """Return the finding about a run in one short sentence, with its step."""
    if not run.steps:
        return "No checkpoint is analysed yet"
    if (said := _heads_said(run)) or (said := _grokking_said(run)):
        return said
    if not run.findings:
        return run.name
    first = run.findings[0].rstrip(".")
    return first if len(first) <= 120 else f"{run.name}: {run.summary()}"


def _heads_said(run: Run) -> str:
    found = main_scores(run)
    if found is None or (excess := found[1].excess("induction")) is None:
        return ""
    if not np.isfinite(excess.values).any():
        return ""
    formed = onsets(found[1], "induction")
    if not formed:
        return f"No induction head formed by step {run.steps[-1]:,}"
    first = formed[0]
    before = max((s for s in run.steps if s < first.step), default=None)
    if before is None:
        return f"Induction heads exist at the first saved step, {first.step:,}"
    if first.transition is not None:
        return f"Induction heads form suddenly, around step {first.transition.midpoint:,.0f}"
    return f"Induction heads form between steps {before:,} and {first.step:,}"


def _grokking_said(run: Run) -> str:
    found = run.first("modular_addition")
    if found is None:
        return ""
    reached = milestones(found[1])
    memorised, general = reached["train_loss"], reached["test_loss"]
    if general is None:
        known = "memorises" if memorised is not None else "does not memorise"
        return f"The model {known} and does not generalise by step {run.steps[-1]:,}"
    if memorised is None or memorised >= general:
        return f"The model generalises by step {general:,}"
    return (
        f"The model generalises by step {general:,}, {general - memorised:,} steps after it "
        "memorised"
    )
