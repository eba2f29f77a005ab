"""Sentences with the heads in them as links, and the title that a run's findings give."""

import re
from collections.abc import Collection

import xarray as xr
from markupsafe import Markup, escape

from pipeline.aggregate.phases import milestones
from pipeline.findings.heads import Heads, Onset, counted_steps, onsets, strongest
from pipeline.findings.induction import Bracket, bracket
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
    excess = None if found is None else _highest_excess(found[1])
    if found is None or excess is None or not excess.size:
        return ""
    formed = onsets(found[1], "induction")
    if not formed:
        return f"No induction head formed by step {int(excess['step'][-1]):,}"
    first = formed[0]
    when = bracket_of(found[1], first)
    if when is None:
        return f"Induction heads exist at step {first.step:,}, the first with their scores"
    if first.transition is not None:
        return f"Induction heads form suddenly, around step {first.transition.midpoint:,.0f}"
    return f"Induction heads form between steps {when.before:,} and {when.after:,}"


def bracket_of(heads: Heads, first: Onset) -> Bracket | None:
    """Return the steps between which the first induction head formed, as the findings give them.

    None where it has the pattern at the first step with scores.
    """
    excess = _highest_excess(heads)
    if excess is None or first.step == int(excess["step"][0]):
        return None
    return bracket(excess, first, heads.threshold)


def _highest_excess(heads: Heads) -> xr.DataArray | None:
    """Return the highest excess of any head's induction score, at the steps that count for it."""
    excess = heads.excess("induction")
    return None if excess is None else strongest(counted_steps(excess)).dropna("step")


def _grokking_said(run: Run) -> str:
    found = run.first("modular_addition")
    if found is None:
        return ""
    tested = found[1]["test_loss"].dropna("step")
    if not tested.size:
        return ""
    reached = milestones(found[1])
    memorised, general = reached["train_loss"], reached["test_loss"]
    if general is None:
        known = "memorises" if memorised is not None else "does not memorise"
        last = int(tested["step"][-1])
        return f"The model {known} and does not generalise by step {last:,}"
    if memorised is None or memorised >= general:
        return f"The model generalises by step {general:,}"
    return (
        f"The model generalises by step {general:,}, {general - memorised:,} steps after it "
        "memorised"
    )
