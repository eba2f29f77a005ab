"""Findings of a store as plain sentences: what formed, when, and what did not.

Every number comes from the store. Sudden changes are dated by their transition, with intervals (see
`pipeline.aggregate.transitions`); what has passed a level, by a saved step (see
`pipeline.aggregate.levels`). The levels are stated in the sentences that use them.
"""

from collections.abc import Callable, Iterator, Mapping

import xarray as xr

from pipeline.aggregate.head_layers import of_headless_model, of_heads_alone
from pipeline.aggregate.sequence_intervals import scan_losses
from pipeline.findings.changes import dated
from pipeline.findings.gaps import gaps_in
from pipeline.findings.grokking import grokking_findings
from pipeline.findings.heads import Onset, heads_of, onsets
from pipeline.findings.in_context import in_context_findings
from pipeline.findings.induction import head_findings
from pipeline.findings.number_format import (
    at_step,
    by_reason,
    extreme,
    finite,
    gaps,
    is_undefined,
    listed,
    non_finite,
    number,
)
from pipeline.query import open_run

_NAMED = 6  # groups and variables that are named; more are counted
_REASONS = 3  # reasons for leaving out steps that are named
_NO_HEADS = "The model has no attention heads, so that none can have formed."

Sentences = Iterator[str]


def findings(store_uri: str) -> list[str]:
    """Return the findings of a store, most important first. Raises InputError without a store."""
    return findings_of(open_run(store_uri))


def findings_of(run: xr.DataTree) -> list[str]:
    """Return the findings of an opened run: a group per measure, as `open_run` returns it.

    A measure that was not computed is reported as missing only where a finding of another one needs
    it; measures without sentences are shown in figures only.
    """
    groups, masked = by_measure(run), list(_left_out(run.attrs.get("masked", {})))
    if not groups:
        return [*masked, "No measure of any checkpoint is stored yet."]
    first = _first_induction_head(groups)
    # First what is specific to a language model or to modular arithmetic; mean loss and weights,
    # which every run has, come last.
    said = [
        *_heads(groups),
        *_each(groups, "token_loss", lambda group: in_context_findings(group, first)),
        *_missing(groups),
        *_each(groups, "modular_addition", grokking_findings),
        *_each(groups, "token_loss", _loss_findings),
        *_each(groups, "weight_norm", _norm_findings),
    ]
    unknown = "No sentence is known for the measures stored here: see the figures."
    return [*(said or [unknown]), *masked, *_gaps_of(groups)]


def by_measure(run: xr.DataTree) -> dict[str, dict[str, xr.Dataset]]:
    """Return the groups that hold checkpoints, by their measure and then by their own name.

    A measure on its default input (a group named like the measure) comes before its siblings.
    Variables without entries (of the heads of a model of no layers) are left out, and so are the
    layers without attention heads, which would count as heads that are finite at no step.
    """
    found: dict[str, dict[str, xr.Dataset]] = {}
    # "head_scores" sorts before "head_scores.text": the default input comes first.
    for name, node in sorted(run.children.items()):
        group = of_heads_alone(node.to_dataset())
        group = group.drop_vars([of for of, values in group.data_vars.items() if not values.size])
        if group.data_vars and group.sizes.get("step", 0):
            measure = str(node.attrs.get("measure", name.partition(".")[0]))
            found.setdefault(measure, {})[name] = _in_order(group)
    return found


def _in_order(group: xr.Dataset) -> xr.Dataset:
    """Return the group in order of step, on which all sentences rely.

    `open_run` returns this order; a group from elsewhere may have another.
    """
    return group if group.indexes["step"].is_monotonic_increasing else group.sortby("step")


def _each(
    groups: dict[str, dict[str, xr.Dataset]],
    measure: str,
    sentences_of: Callable[[xr.Dataset], Sentences],
) -> Sentences:
    """Yield the sentences about every group of a measure, naming inputs other than the default."""
    for name, group in groups.get(measure, {}).items():
        yield from _on_input(name, sentences_of(group))


def _heads(groups: dict[str, dict[str, xr.Dataset]]) -> Sentences:
    """Yield the sentences about every group of head scores, by the threshold of the labels."""
    for name, scores in groups.get("head_scores", {}).items():
        if without_heads(scores):
            yield _NO_HEADS
        else:
            yield from _on_input(name, head_findings(heads_of(groups, name)))


def _on_input(name: str, sentences: Sentences) -> Sentences:
    """Yield sentences with the name of their group's input where it is not the default one."""
    _, _, other_input = name.partition(".")  # groups are named <measure> or <measure>.<input>
    for sentence in sentences:
        yield f"On input '{other_input}': {sentence}" if other_input else sentence


def _first_induction_head(groups: dict[str, dict[str, xr.Dataset]]) -> Onset | None:
    name = next(iter(groups.get("head_scores", {})), None)
    if name is None or without_heads(groups["head_scores"][name]):
        return None
    return next(iter(onsets(heads_of(groups, name), "induction")), None)


def without_heads(scores: xr.Dataset) -> bool:
    """Return whether these are the scores of a model without layers, or without attention."""
    return 0 in (scores.sizes.get("layer"), scores.sizes.get("head"))


def _missing(groups: dict[str, dict[str, xr.Dataset]]) -> Sentences:
    if "token_loss" in groups and "head_scores" not in groups:
        if any(map(of_headless_model, groups["token_loss"].values())):
            yield _NO_HEADS
        else:
            yield "Head scores are not in the store: it is unknown whether induction heads formed."
    if "head_scores" in groups and "token_loss" not in groups:
        yield "Token losses are not in the store: it is unknown whether the loss changed then."


def _loss_findings(group: xr.Dataset) -> Sentences:
    mean = group["mean"]
    defined = finite(mean)
    if not defined.size:
        if not is_undefined(group, "mean"):
            yield f"The mean loss is {non_finite(mean)}."
        return
    (start, first), (end, last) = (_at(defined, i) for i in (0, -1))
    if start == end:
        said = f"is {first} nats at {start}"
    elif first == last:
        said = f"is {first} nats at {start} and at {end}"
    else:
        verb = "fell" if defined[-1] < defined[0] else "rose"
        said = f"{verb} from {first} nats at {start} to {last} at {end}"
    yield f"The mean loss {said}{gaps(mean)}."
    if (one := scan_losses(group, "mean").largest) is not None:
        verb = "fell" if one.amplitude < 0 else "rose"
        yield f"It {verb} suddenly by {number(abs(one.amplitude))} nats {dated(one)}."


def _norm_findings(group: xr.Dataset) -> Sentences:
    total = group["sum_of_squares"]
    defined = finite(total)
    name = "The sum of squares of all weights"
    if (peak := extreme(defined, "highest")) is None:
        yield f"{name} is {non_finite(total)}."
        return
    lowest, highest = float(defined.min()), number(peak[1])
    end, last = _at(defined, -1)
    if defined.sizes["step"] == 1:
        said = f"is {last} at {end}"
    elif number(lowest) == highest:
        said = f"is {last} at every step{' where it is finite' if non_finite(total) else ''}"
    elif peak[0] == int(defined["step"][-1]):
        which = "the last step" + (" where it is finite" if non_finite(total[-1:]) else "")
        said = f"was largest at {which}: {last}"
    else:
        said = f"was largest at {at_step(peak[0])} ({highest}) and is {last} at {end}"
    yield f"{name} {said}{gaps(total)}."


def _at(series: xr.DataArray, index: int) -> tuple[str, str]:
    """Return the step and the value at an index of a series as text."""
    return at_step(int(series["step"][index])), number(float(series[index]))


def _left_out(masked: Mapping[int, str]) -> Sentences:
    """Yield the steps that were left out, by the audit or as non-finite, with the reasons."""
    if masked:
        said = [f"{steps} ({reason})" for reason, steps in by_reason(masked).items()]
        yield f"Left out of all findings and figures: {listed(said, _REASONS)}."


def _gaps_of(groups: dict[str, dict[str, xr.Dataset]]) -> Sentences:
    """Yield the variables that are not finite, one sentence for each set of steps."""
    found: dict[str, list[str]] = {}
    for group in groups.values():
        for name, dataset in group.items():
            for steps, variables in gaps_in(dataset).items():
                found.setdefault(steps, []).append(f"{name} ({listed(variables, _NAMED)})")
    for steps, names in found.items():
        yield f"Not finite {steps}: {listed(names, _NAMED)}."
