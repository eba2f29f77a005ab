"""When induction heads formed, in which heads, and whether the in-context score moved with them."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.aggregate.crossings import Change, first_crossing, largest_change
from pipeline.report.wording import at_step, counted, extreme, head_name, listed, number

FORMED = 0.6  # a head that spends this much of its attention on a pattern has learned it
ABSENT = 0.15  # below this, no head has begun to
TOGETHER = 2  # saved checkpoints within which two changes count as one event


class Formation(NamedTuple):
    """The saved steps between which the first induction head formed."""

    before: int
    after: int


class Onset(NamedTuple):
    """A head whose score passed `FORMED`: when, and its score at the last step."""

    step: int
    layer: int
    head: int
    last: float

    def __str__(self) -> str:
        faded = f" ({number(self.last)} at the end)" if self.last <= FORMED else ""
        return f"{head_name(self.layer, self.head)}{faded}"


def strongest(score: xr.DataArray) -> xr.DataArray:
    """The highest score of any head at each step (dims: step)."""
    return score.reduce(np.fmax.reduce, dim="head").reduce(np.fmax.reduce, dim="layer")


def formation(scores: xr.Dataset) -> Formation | None:
    """Between which saved steps the first head's prefix-matching score passed `FORMED`.

    From the last step before that at which no head's was above `ABSENT`, or else from the step
    just before. None where no head passed it, or one had at the first step already.
    """
    series = strongest(scores["induction"]).dropna("step")
    after = first_crossing(series, FORMED, "above")
    if after is None or after == int(series["step"][0]):
        return None
    earlier = series.sel(step=series["step"] < after)
    faint = earlier.sel(step=earlier < ABSENT)
    return Formation(int((faint if faint.size else earlier)["step"][-1]), after)


def onsets(score: xr.DataArray) -> list[Onset]:
    """Every head whose score passed `FORMED`, the earliest first."""
    score = score.transpose("layer", "head", "step")
    found = []
    for i, j in zip(*np.nonzero((score > FORMED).any("step").values), strict=True):
        one = score[i, j]
        step = first_crossing(one, FORMED, "above")
        assert step is not None
        found.append(Onset(step, int(one["layer"]), int(one["head"]), float(one[-1])))
    return sorted(found)


def head_findings(scores: xr.Dataset) -> Iterator[str]:
    """Sentences on induction heads and previous-token heads (dims: step, layer, head)."""
    induction = scores["induction"]
    if extreme(strongest(induction), "highest") is None:
        yield "The prefix-matching score is undefined at every step."
        return
    heads = onsets(induction)
    yield from _when_induction(induction, heads, formation(scores))
    yield from _previous_token(scores["previous_token"], heads)


def in_context_findings(losses: xr.Dataset, formed: Formation | None) -> Iterator[str]:
    """When the in-context score moved most, and whether induction heads formed at the same time."""
    score = losses["in_context_score"]
    change = largest_change(score)
    if change is None:
        yield "The in-context score did not move."
        return
    yield (
        f"The in-context score{_tokens_of(losses)} moved most between steps {change.before:,} and "
        f"{change.after:,}, from {number(round(change.value_before, 3))} to "
        f"{number(round(change.value_after, 3))} nats{_beside(change, formed, score)}."
    )


def compared_tokens(losses: xr.Dataset) -> tuple[int, int] | None:
    """The early and the late token of the in-context score; None where they are not stored."""
    match losses.attrs.get("parameters"):
        case {"early_token": early, "late_token": late}:
            return int(early), int(late)
    return None


def _dated(heads: list[Onset], at_most: int = 8) -> str:
    """Heads by the step of their onset: "L1H1 and L1H2 from step 825; L0H3 from step 900"."""
    groups = groupby(heads[:at_most], key=lambda head: head.step)
    dated = [f"{listed([str(h) for h in same], at_most)} from {at_step(s)}" for s, same in groups]
    more = [f"and {len(heads) - at_most} more"] if len(heads) > at_most else []
    return "; ".join([*dated, *more])


def _when_induction(
    induction: xr.DataArray, heads: list[Onset], formed: Formation | None
) -> Iterator[str]:
    series = strongest(induction).dropna("step")
    if not heads:
        step, value = extreme(series, "highest") or (0, float("nan"))
        yield (
            f"No induction head formed by {at_step(int(series['step'][-1]))}: no head's "
            f"prefix-matching score passed {FORMED} (the highest was {number(value)}, "
            f"{_owner(induction, step)} at {at_step(step)})."
        )
        return
    if formed is None:
        yield f"Induction heads were there at the first saved step ({int(series['step'][0]):,})."
    else:
        yield (
            f"Induction heads formed between steps {formed.before:,} and {formed.after:,}: the "
            f"highest prefix-matching score of any head went from "
            f"{number(float(series.sel(step=formed.before)))} to "
            f"{number(float(series.sel(step=formed.after)))}."
        )
    size = induction.sizes["layer"] * induction.sizes["head"]
    yield (
        f"Heads with a prefix-matching score above {FORMED}, {len(heads)} of {size}: "
        f"{_dated(heads)}."
    )


def _previous_token(score: xr.DataArray, induction: list[Onset]) -> Iterator[str]:
    heads = onsets(score)
    if not heads:
        found = extreme(strongest(score), "highest")
        value = number(found[1]) if found else "undefined"
        yield (
            f"No previous-token head by {at_step(int(score['step'][-1]))}: no head's mean "
            f"attention to the token before passed {FORMED} (the highest was {value})."
        )
        return
    yield (
        f"Previous-token heads (mean attention to the token before above {FORMED}): "
        f"{_dated(heads)}{_lead(heads, induction)}."
    )


def _lead(heads: list[Onset], induction: list[Onset]) -> str:
    if not induction:
        return ""
    lead = induction[0].step - heads[0].step
    if lead == 0:
        return "; the first at the same saved step as the first induction head"
    order = "before" if lead > 0 else "after"
    return f"; the first {counted(abs(lead), 'step')} {order} the first induction head"


def _beside(change: Change, formed: Formation | None, score: xr.DataArray) -> str:
    """How the change lies to the formation, counted in saved checkpoints between the two."""
    if formed is None:
        return ""
    saved = sorted({int(step) for step in score["step"].values} | {*formed, *change[:2]})
    gap = max(
        saved.index(formed.before) - saved.index(change.after),
        saved.index(change.before) - saved.index(formed.after),
    )
    if gap < 0:
        return ", while induction heads were forming"
    side = "before" if change.after <= formed.before else "after"
    apart = "just" if gap == 0 else counted(gap, "saved checkpoint")
    same = "" if gap <= TOGETHER else ": not the same moment"
    return f", {apart} {side} induction heads formed{same}"


def _owner(score: xr.DataArray, step: int) -> str:
    layer, head = np.unravel_index(
        np.nanargmax(score.sel(step=step).transpose("layer", "head").values),
        (score.sizes["layer"], score.sizes["head"]),
    )
    return head_name(int(score["layer"][layer]), int(score["head"][head]))


def _tokens_of(losses: xr.Dataset) -> str:
    tokens = compared_tokens(losses)
    return f" (loss at token {tokens[1]:,} minus loss at token {tokens[0]:,})" if tokens else ""
