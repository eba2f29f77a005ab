"""Sentences on induction heads: when they formed, and whether the in-context score changed then."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.aggregate.crossings import Change, largest_change
from pipeline.findings.number_format import (
    at_step,
    counted,
    extreme,
    finite,
    gaps,
    head_name,
    is_undefined,
    listed,
    non_finite,
    number,
)
from pipeline.measures.head_patterns import (
    NULL_IN_WORDS,
    NULLS,
    THRESHOLD,
    excess_of,
    has_pattern,
    threshold_of,
)

# Choices of this package.
ABSENT = 0.5  # share of the threshold below which no head has begun to form
TOGETHER = 2  # saved checkpoints within which two changes count as one event
_NOWHERE_WHOLE = "at no saved step are the scores of all heads finite"
_PATTERN = {
    "induction": ("induction head", "prefix-matching score"),
    "previous_token": ("previous-token head", "mean attention to the token before"),
}


class Formation(NamedTuple):
    """The saved steps between which the first induction head formed."""

    before: int
    after: int


class Onset(NamedTuple):
    """The onset of a pattern in one head.

    last: the head's score at the last step. stays: whether it has the pattern there.
    """

    step: int
    layer: int
    head: int
    last: float
    stays: bool

    def __str__(self) -> str:
        faded = "" if self.stays else f" ({number(self.last)} at the end)"
        return f"{head_name(self.layer, self.head)}{faded}"


class Heads(NamedTuple):
    """The scores of a `head_scores` group, and the threshold of their excess over the nulls.

    threshold: that of the run's `head_labels`, if it has them.
    """

    scores: xr.Dataset
    threshold: float = THRESHOLD

    def excess(self, pattern: str) -> xr.DataArray | None:
        """Return the excess of each head's score over its null; None where no null is stored."""
        excess = excess_of(self.scores, pattern)
        return None if excess is None else excess.compute()


def heads_of(groups: Mapping[str, Mapping[str, xr.Dataset]], name: str) -> Heads:
    """Return the group of head scores of that name, with the threshold of its labels.

    groups: by their measure and then by name.
    """
    labels = groups.get("head_labels", {})
    beside = labels.get(name.replace("head_scores", "head_labels", 1), labels.get("head_labels"))
    return Heads(groups["head_scores"][name], threshold_of(beside))


def strongest(score: xr.DataArray) -> xr.DataArray:
    """Return the highest score of any head at each step (dims: step), ignoring undefined heads."""
    # Not `max`, which warns where all heads are NaN; `fmax` returns NaN only then.
    return score.reduce(np.fmax.reduce, dim="head").reduce(np.fmax.reduce, dim="layer")


def formation(heads: Heads) -> Formation | None:
    """Return the saved steps between which the first induction head formed.

    After: the first step at which a head's prefix-matching score exceeds its null by the threshold.
    Before: the last earlier step at which no head's score did so by half of the threshold, or else
    the step just before. None where no induction head formed, or one existed at the first step.
    """
    excess = heads.excess("induction")
    if excess is None:
        return None
    series = strongest(counted_steps(excess)).dropna("step")
    after = first_reaching(series, heads.threshold)
    if after is None or after == int(series["step"][0]):
        return None
    earlier = series.sel(step=series["step"] < after)
    faint = earlier.sel(step=earlier < ABSENT * heads.threshold)
    return Formation(int((faint if faint.size else earlier)["step"][-1]), after)


def first_reaching(excess: xr.DataArray, threshold: float) -> int | None:
    """Return the first saved step at which an excess (dims: step) reaches the threshold."""
    reached = has_pattern(excess.sortby("step"), threshold)
    steps = reached["step"].values[(reached == 1).values]
    return int(steps[0]) if steps.size else None


def onsets(heads: Heads, pattern: str) -> list[Onset]:
    """Return the onsets of a pattern in all heads that had it, the earliest first.

    Empty where the store has no null for the pattern.
    """
    excess = heads.excess(pattern)
    if excess is None:
        return []
    order = ("layer", "head", "step")
    excess = counted_steps(excess).transpose(*order)
    score = heads.scores[pattern].compute().transpose(*order)
    has = has_pattern(excess, heads.threshold)
    found = []
    for i, j in zip(*np.nonzero((has == 1).any("step").values), strict=True):
        one = excess[i, j]
        step, stays = first_reaching(one, heads.threshold), bool(has[i, j, -1] == 1)
        assert step is not None
        last = float(score[i, j, -1])
        found.append(Onset(step, int(one["layer"]), int(one["head"]), last, stays))
    return sorted(found)  # by step, then layer and head: the order of the fields


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


def in_context_findings(losses: xr.Dataset, formed: Formation | None) -> Iterator[str]:
    """Yield when the in-context score moved most, and whether induction heads formed then."""
    named, score = f"The in-context score{_tokens_of(losses)}", losses["in_context_score"]
    change = largest_change(score)
    if change is None:
        if not is_undefined(losses, "in_context_score"):
            yield f"{named} {_unmoved(score)}."
        return
    # A sentence "from 0.00 to 0.00" would be true but useless.
    if (most := number(round(change.value_before, 3))) == number(round(change.value_after, 3)):
        yield (
            f"{named} moved by no more than {number(abs(change.size))} nats between two saved "
            f"steps: it is {most} at {at_step(change.before)}{gaps(score)}."
        )
        return
    share, half = share_of_range(score, change), half_of_range(score)
    span = change[:2] if share >= 0.5 else half
    where = "" if share >= 0.5 else f"; half of it lies between steps {span[0]:,} and {span[1]:,}"
    yield (
        f"{named} moved most between steps {change.before:,} and "
        f"{change.after:,}, from {number(round(change.value_before, 3))} to "
        f"{number(round(change.value_after, 3))} nats ({share:.0%} of its range){where}"
        f"{_relative_to_formation(span, formed, score)}{gaps(score, 'the score')}."
    )


def _unmoved(score: xr.DataArray) -> str:
    """Return the predicate for a score that has no two different finite values."""
    known = finite(score)
    if not known.size:
        return f"is {non_finite(score)}"
    value, step = number(round(float(known[0]), 3)), at_step(int(known["step"][0]))
    said = f"is {value} nats at {step}" if known.size == 1 else f"did not move from {value} nats"
    return said + gaps(score)


def share_of_range(series: xr.DataArray, change: Change) -> float:
    """Return a change as a share of the range of a series' finite values."""
    known = finite(series)
    return abs(change.size) / float(known.max() - known.min())


def half_of_range(series: xr.DataArray) -> tuple[int, int]:
    """Return the shortest span of saved steps over which a series changed by half its range.

    In either direction; of equally short spans the earliest.
    """
    series = finite(series).sortby("step")
    steps, values = series["step"].values, series.values.astype(np.float64)
    needed = (values.max() - values.min()) / 2
    found: tuple[int, int] = (int(steps[0]), int(steps[-1]))
    # From each step, the first later one that is far enough: quadratic, over some hundred steps.
    for i in range(len(steps) - 1):
        far = np.flatnonzero(np.abs(values[i:] - values[i]) >= needed)
        if far.size and steps[i + far[0]] - steps[i] < found[1] - found[0]:
            found = int(steps[i]), int(steps[i + far[0]])
    return found


def compared_tokens(losses: xr.Dataset) -> tuple[int, int] | None:
    """Return the early and late token of the in-context score; None where they are not stored."""
    match losses.attrs.get("parameters"):
        case {"early_token": early, "late_token": late}:
            return int(early), int(late)
    return None


def _dated(heads: list[Onset], at_most: int = 8) -> str:
    """Return heads by the step of their onset."""
    groups = groupby(heads[:at_most], key=lambda head: head.step)
    dated = [f"{listed([str(h) for h in same], at_most)} from {at_step(s)}" for s, same in groups]
    more = [f"and {len(heads) - at_most} more"] if len(heads) > at_most else []
    return "; ".join([*dated, *more])


def counted_steps(excess: xr.DataArray) -> xr.DataArray:
    """Mask the steps at which a head's score or null is not finite; `_not_finite` names them.

    A head that is finite at no step does not mask any.
    """
    return excess.where(~_bad_steps(excess))


def _bad_steps(score: xr.DataArray) -> xr.DataArray:
    """Return a mask of the steps at which a head is not finite that is finite at another step."""
    finite = xr.apply_ufunc(np.isfinite, score)
    return (~finite & finite.any("step")).any(["layer", "head"])


def _not_finite(scores: xr.Dataset) -> Iterator[str]:
    """Yield the steps and the heads whose scores are not finite."""
    bad = sum(_bad_steps(scores[name].compute()) for name in _PATTERN)
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
    when = formation(heads)
    if when is None:
        yield f"Induction heads existed at the first saved step ({int(series['step'][0]):,})."
    else:
        yield (
            f"Induction heads formed between steps {when.before:,} and {when.after:,}: the "
            "highest excess of any head's prefix-matching score over its null "
            f"({NULL_IN_WORDS[NULLS['induction']]}) went from "
            f"{number(float(series.sel(step=when.before)))} to "
            f"{number(float(series.sel(step=when.after)))}."
        )
    size = excess.sizes["layer"] * excess.sizes["head"]
    yield (
        f"Heads with a prefix-matching score of at least {heads.threshold:g} above its null, "
        f"{len(formed)} of {size}: {_dated(formed)}."
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
        f"Previous-token heads (mean attention to the token before at least {heads.threshold:g} "
        f"above {NULL_IN_WORDS['uniform_null']}): {_dated(formed)}{_lead(formed, induction)}."
    )


def _lead(heads: list[Onset], induction: list[Onset]) -> str:
    if not induction:
        return ""
    lead = induction[0].step - heads[0].step
    if lead == 0:
        return "; the first at the same saved step as the first induction head"
    order = "before" if lead > 0 else "after"
    return f"; the first {counted(abs(lead), 'step')} {order} the first induction head"


def _relative_to_formation(
    change: tuple[int, int], formed: Formation | None, score: xr.DataArray
) -> str:
    """Return a clause on the order of a change and the formation, in saved checkpoints."""
    if formed is None:
        return ""
    before, after = change
    saved = sorted({int(step) for step in score["step"].values} | {*formed, before, after})
    # Saved checkpoints between the two intervals; negative where they overlap.
    gap = max(
        saved.index(formed.before) - saved.index(after),
        saved.index(before) - saved.index(formed.after),
    )
    if gap < 0:
        return ", while induction heads were forming"
    side = "before" if after <= formed.before else "after"
    apart = "just" if gap == 0 else counted(gap, "saved checkpoint")
    same = "" if gap <= TOGETHER else ": not the same moment"
    return f", {apart} {side} induction heads formed{same}"


def _owner(score: xr.DataArray, step: int) -> str:
    return head_name(*_place(score, step))


def _place(score: xr.DataArray, step: int) -> tuple[int, int]:
    """Return layer and head of the highest score at a step."""
    layer, head = np.unravel_index(
        np.nanargmax(score.sel(step=step).transpose("layer", "head").values),
        (score.sizes["layer"], score.sizes["head"]),
    )
    return int(score["layer"][layer]), int(score["head"][head])


def _tokens_of(losses: xr.Dataset) -> str:
    tokens = compared_tokens(losses)
    return f" (loss at token {tokens[1]:,} minus loss at token {tokens[0]:,})" if tokens else ""
