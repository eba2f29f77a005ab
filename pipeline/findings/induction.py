"""Sentences on induction heads and previous-token heads: which formed, when and how suddenly."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.aggregate.transitions import Transition
from pipeline.findings.changes import dated, lag, not_sudden
from pipeline.findings.heads import Heads, Onset, bad_steps, counted_steps, onsets, strongest
from pipeline.findings.number_format import (
    at_step,
    counted,
    extreme,
    listed,
    number,
)
from pipeline.measures.head_patterns import NULL_IN_WORDS, NULLS
from pipeline.models.head_names import head_name

ABSENT = 0.5  # share of the threshold below which no head has begun to form
_NOWHERE_WHOLE = "at no saved step are the scores of all heads finite"
_PATTERN = {
    "induction": ("induction head", "prefix-matching score"),
    "previous_token": ("previous-token head", "mean attention to the token before"),
}


class Bracket(NamedTuple):
    """Saved steps between which the first head formed, where no transition dates it."""

    before: int
    after: int


def bracket(series: xr.DataArray, first: Onset, threshold: float) -> Bracket:
    """Return the saved steps between which the first head formed.

    series: the highest excess of any head (dims: step). After: the step of the first onset.
    Before: the last earlier step at which no head reached half of the threshold, or else the step
    just before.
    """
    earlier = series.sel(step=series["step"] < first.step)
    faint = earlier.sel(step=earlier < ABSENT * threshold)
    return Bracket(int((faint if faint.size else earlier)["step"][-1]), first.step)


def head_findings(heads: Heads) -> Iterator[str]:
    """Yield sentences on induction heads and previous-token heads (dims: step, layer, head)."""
    excess = heads.excess("induction")
    if excess is None:
        yield (
            "The head scores were stored without their nulls, by an earlier version: whether "
            "induction heads formed is unknown until they are computed again."
        )
        return
    yield from _not_finite(heads.scores)
    formed = onsets(heads, "induction")
    if heads.scores["induction"].isnull().all():
        yield "The prefix-matching score is undefined at every step."
    elif excess.isnull().all():
        yield (
            "It is unknown whether induction heads formed: the prefix-matching score has no null "
            "on this input, because all its blocks have one length, or are too short or too few "
            "of different lengths, and a head that attends a fixed distance back would score as "
            "high. Give longer blocks, of more lengths."
        )
    else:
        yield from _when_induction(heads, excess, formed)
    yield from _previous_token(heads, formed)


def _by_step(heads: list[Onset], at_most: int = 8) -> str:
    """Return heads by the step of their onset."""
    groups = groupby(heads[:at_most], key=lambda head: head.step)
    named = [
        f"{listed([_named(h) for h in same], at_most)} from {at_step(s)}" for s, same in groups
    ]
    more = [f"and {len(heads) - at_most} more"] if len(heads) > at_most else []
    return "; ".join([*named, *more])


def _named(onset: Onset) -> str:
    faded = f" (to {at_step(onset.until)}; {number(onset.last)} at the end)" if onset.until else ""
    return f"{head_name(onset.layer, onset.head)}{faded}"


def _not_finite(scores: xr.Dataset) -> Iterator[str]:
    """Yield the steps and the heads whose scores are not finite."""
    bad = sum(bad_steps(scores[name].compute()) for name in _PATTERN)
    steps = [f"{int(step):,}" for step in scores["step"].values[np.asarray(bad > 0)]]
    if steps:
        yield f"Head scores are not finite at {_steps(steps)}, left out of the findings on heads."
    never = ~xr.apply_ufunc(np.isfinite, scores["induction"].compute()).any("step")
    if 0 < (count := int(never.sum())) < never.size:
        yield f"The scores of {counted(count, 'head')} are finite at no step."


def _steps(steps: list[str]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {listed(steps)}"


def _when_induction(heads: Heads, excess: xr.DataArray, formed: list[Onset]) -> Iterator[str]:
    series = strongest(counted_steps(excess)).dropna("step")
    if not series.size:
        yield f"It is unknown whether induction heads formed: {_NOWHERE_WHOLE}."
        return
    if not formed:
        yield f"No induction head formed by {at_step(int(series['step'][-1]))}: {_none(heads)}."
        yield from _high_on_null(heads)
        return
    yield _formed(heads, series, formed[0])
    size = excess.sizes["layer"] * excess.sizes["head"]
    yield (
        f"Heads whose prefix-matching score stays at least {heads.threshold:g} above its null, "
        f"spikes aside, {len(formed)} of {size}: {_by_step(formed)}."
    )


def _formed(heads: Heads, series: xr.DataArray, first: Onset) -> str:
    """Return how and when the first induction head formed."""
    if first.step == int(series["step"][0]):
        return f"Induction heads existed at the first saved step ({first.step:,})."
    null = NULL_IN_WORDS[NULLS["induction"]]
    if first.transition is not None:
        return (
            f"Induction heads formed suddenly: {head_name(first.layer, first.head)}'s "
            f"prefix-matching score rose by {number(first.transition.amplitude)} "
            f"{dated(first.transition)}, to at least {heads.threshold:g} above its null ({null})."
        )
    when = bracket(series, first, heads.threshold)
    return (
        f"Induction heads formed between steps {when.before:,} and {when.after:,}: the highest "
        f"excess of any head's prefix-matching score over its null ({null}) went from "
        f"{number(float(series.sel(step=when.before)))} to "
        f"{number(float(series.sel(step=when.after)))}"
        f"{not_sudden(first.scanned, first.checkpoints)}."
    )


def _none(heads: Heads, pattern: str = "induction") -> str:
    """Return why no head has a pattern, with the largest excess of any head."""
    excess = heads.excess(pattern)
    assert excess is not None
    rule = f"exceeded its null ({NULL_IN_WORDS[NULLS[pattern]]}) by {heads.threshold:g}"
    found = extreme(strongest(counted_steps(excess)), "highest")
    if found is None:
        return f"it is not known whether any head's {_PATTERN[pattern][1]} {rule}"
    step, value = found
    return (
        f"no head's {_PATTERN[pattern][1]} {rule} (the most was {number(value)}, "
        f"{_owner(excess, step)} at {at_step(step)})"
    )


def _high_on_null(heads: Heads) -> Iterator[str]:
    """Yield the head that scores as high as an induction head, but as high on its null."""
    score = heads.scores["induction"]
    found = extreme(strongest(score), "highest")
    if found is None or found[1] < heads.threshold:
        return
    step, value = found
    layer, head = _place(score, step)
    null = float(heads.scores["induction_null"].sel(step=step, layer=layer, head=head))
    yield (
        f"{head_name(layer, head)} has a prefix-matching score of {number(value)} at "
        f"{at_step(step)}, but {number(null)} at keys that match nothing, as far away: it attends "
        "by distance, and mimics an induction head."
    )


def _previous_token(heads: Heads, induction: list[Onset]) -> Iterator[str]:
    formed, excess = onsets(heads, "previous_token"), heads.excess("previous_token")
    if excess is None:
        return
    series = strongest(counted_steps(excess)).dropna("step")
    if not series.size:
        yield f"It is unknown whether previous-token heads formed: {_NOWHERE_WHOLE}."
        return
    if not formed:
        why = _none(heads, "previous_token")
        yield f"No previous-token head by {at_step(int(series['step'][-1]))}: {why}."
        return
    yield (
        f"Previous-token heads (mean attention to the token before stays at least "
        f"{heads.threshold:g} above {NULL_IN_WORDS['uniform_null']}, spikes aside): "
        f"{_by_step(formed)}{_lead(formed, induction)}."
    )


def _lead(heads: list[Onset], induction: list[Onset]) -> str:
    """Return a clause on the first previous-token head against the first induction head."""
    if not induction:
        return ""
    first, other = heads[0], induction[0]
    if first.transition is not None and other.transition is not None:
        return f". The first rose suddenly {_against(first.transition, other.transition)}"
    lead = other.step - first.step
    if lead == 0:
        return "; the first at the same saved step as the first induction head"
    order = "before" if lead > 0 else "after"
    return f"; the first {counted(abs(lead), 'step')} {order} the first induction head"


def _against(one: Transition, induction: Transition) -> str:
    return f"{dated(one)}, {lag(one, induction, 'the first induction head')}"


def _owner(score: xr.DataArray, step: int) -> str:
    return head_name(*_place(score, step))


def _place(score: xr.DataArray, step: int) -> tuple[int, int]:
    """Return layer and head of the highest score at a step."""
    layer, head = np.unravel_index(
        np.nanargmax(score.sel(step=step).transpose("layer", "head").values),
        (score.sizes["layer"], score.sizes["head"]),
    )
    return int(score["layer"][layer]), int(score["head"][head])
