"""Sentences on the in-context score: when and how suddenly it changed, against induction heads."""

from collections.abc import Iterator

import xarray as xr

from pipeline.aggregate.sequence_intervals import scan_losses
from pipeline.aggregate.transitions import Scanned
from pipeline.findings.changes import checkpoints_of, dated, lag, not_sudden
from pipeline.findings.heads import Onset
from pipeline.findings.number_format import (
    at_step,
    counted,
    finite,
    gaps,
    is_undefined,
    non_finite,
    number,
)


def in_context_findings(losses: xr.Dataset, induction: Onset | None) -> Iterator[str]:
    """Yield when the in-context score changed, and how long after the first induction head.

    losses: a `token_loss` group. induction: the onset of the first induction head.
    """
    named, score = f"The in-context score{_tokens_of(losses)}", losses["in_context_score"]
    known = finite(score)
    if not known.size:
        if not is_undefined(losses, "in_context_score"):
            yield f"{named} is {non_finite(score)}."
        return
    first, last = (number(round(float(known[i]), 3)) for i in (0, -1))
    start, end = (at_step(int(known["step"][i])) for i in (0, -1))
    found = scan_losses(losses, "in_context_score")
    if start == end:
        said = f"is {first} nats at {start}"
    elif found.transitions:
        said = _sudden(found, induction)
    elif float(known.max() - known.min()) < _VISIBLE:
        said = f"did not move from {first} nats"
    else:
        how = not_sudden(found, checkpoints_of(score))
        said = f"went from {first} nats at {start} to {last} at {end}{how}"
    yield f"{named} {said}{gaps(score, 'the score')}."


_VISIBLE = 5e-4  # nats: a smaller range is none in the digits that are shown


def _sudden(found: Scanned, induction: Onset | None) -> str:
    """Return the predicate for a score with transitions: the largest, and how many others."""
    one = found.largest
    assert one is not None
    verb = "fell" if one.amplitude < 0 else "rose"
    said = f"{verb} suddenly by {number(abs(one.amplitude))} nats {dated(one)}"
    if induction is not None and induction.transition is not None:
        said += f", {lag(one, induction.transition, 'that of the first induction head')}"
    if others := len(found.transitions) - 1:
        said += f"; it has {counted(others, 'smaller transition')} besides"
    return said


def compared_tokens(losses: xr.Dataset) -> tuple[int, int] | None:
    """Return the early and late token of the in-context score; None where they are not stored."""
    match losses.attrs.get("parameters"):
        case {"early_token": early, "late_token": late}:
            return int(early), int(late)
    return None


def _tokens_of(losses: xr.Dataset) -> str:
    tokens = compared_tokens(losses)
    return f" (loss at token {tokens[1]:,} minus loss at token {tokens[0]:,})" if tokens else ""
