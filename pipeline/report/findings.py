"""What a store shows, in plain sentences: what formed, when, and what did not.

Every number comes from the store; every moment is a saved step, found by
`pipeline.aggregate.crossings`. The thresholds are stated in the sentences that use them.
"""

from collections.abc import Callable, Iterator

import xarray as xr

from pipeline.query import open_run
from pipeline.report.grokking import grokking_findings
from pipeline.report.induction import (
    Formation,
    formation,
    head_findings,
    heads_of,
    in_context_findings,
)
from pipeline.report.wording import at_step, extreme, number

Sentences = Iterator[str]


def findings(store_uri: str) -> list[str]:
    """The findings of one store, most telling first. Raises InputError where there is no store."""
    return findings_of(open_run(store_uri))


def findings_of(run: xr.DataTree) -> list[str]:
    """The findings of an opened run: a group per measure, as `open_run` gives it.

    A measure that was not computed is said to be missing only where another one's finding would
    need it; measures that the report knows no sentence for are left to the figures.
    """
    groups = by_measure(run)
    if not groups:
        return ["No measure of any checkpoint is stored yet."]
    formed = _formation(groups)
    said = [
        *_heads(groups),
        *_each(groups, "token_loss", lambda group: in_context_findings(group, formed)),
        *_missing(groups),
        *_each(groups, "modular_addition", grokking_findings),
        *_each(groups, "token_loss", _loss_findings),
        *_each(groups, "weight_norm", _norm_findings),
    ]
    return said or ["No sentence is known for the measures stored here: see the figures."]


def by_measure(run: xr.DataTree) -> dict[str, dict[str, xr.Dataset]]:
    """The groups that hold checkpoints, by their measure and then by their own name.

    A measure on its default input (a group named like the measure) comes before its siblings.
    """
    found: dict[str, dict[str, xr.Dataset]] = {}
    for name, node in sorted(run.children.items()):
        if node.sizes.get("step", 0):
            measure = str(node.attrs.get("measure", name.partition(".")[0]))
            found.setdefault(measure, {})[name] = node.to_dataset()
    return found


def _each(
    groups: dict[str, dict[str, xr.Dataset]],
    measure: str,
    sentences_of: Callable[[xr.Dataset], Sentences],
) -> Sentences:
    """The sentences about every group of a measure, naming the input where it is not the usual."""
    for name, group in groups.get(measure, {}).items():
        yield from _on_input(name, sentences_of(group))


def _heads(groups: dict[str, dict[str, xr.Dataset]]) -> Sentences:
    """The sentences about every group of head scores, by the threshold of the labels."""
    for name in groups.get("head_scores", {}):
        yield from _on_input(name, head_findings(heads_of(groups, name)))


def _on_input(name: str, sentences: Sentences) -> Sentences:
    """Sentences that name the input of their group where it is not the usual one."""
    _, _, other_input = name.partition(".")
    for sentence in sentences:
        yield f"On input '{other_input}': {sentence}" if other_input else sentence


def _formation(groups: dict[str, dict[str, xr.Dataset]]) -> Formation | None:
    name = next(iter(groups.get("head_scores", {})), None)
    return None if name is None else formation(heads_of(groups, name))


def _missing(groups: dict[str, dict[str, xr.Dataset]]) -> Sentences:
    if "token_loss" in groups and "head_scores" not in groups:
        yield "Head scores are not in the store: it does not tell whether induction heads formed."
    if "head_scores" in groups and "token_loss" not in groups:
        yield "Token losses are not in the store: it does not tell whether the loss changed then."


def _loss_findings(group: xr.Dataset) -> Sentences:
    mean = group["mean"].dropna("step")
    if mean.sizes["step"] > 1:
        first, last = mean[0], mean[-1]
        verb = "fell" if last < first else "went"
        yield (
            f"The mean loss {verb} from {number(float(first))} nats at "
            f"{at_step(int(first['step']))} to {number(float(last))} at "
            f"{at_step(int(last['step']))}."
        )


def _norm_findings(group: xr.Dataset) -> Sentences:
    total = group["sum_of_squares"].dropna("step")
    peak = extreme(total, "highest")
    if peak is None or total.sizes["step"] < 2:
        return
    step, value = peak
    last, last_step = float(total[-1]), int(total["step"][-1])
    if step == last_step:
        yield f"The sum of squares of all weights was largest at the last step: {number(value)}."
    else:
        yield (
            f"The sum of squares of all weights was largest at {at_step(step)} ({number(value)}) "
            f"and is {number(last)} at {at_step(last_step)}."
        )
