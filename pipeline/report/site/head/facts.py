"""The facts at the top of a head's page: label, onset, effect, strongest partner."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.findings.number_format import in_words, number
from pipeline.measures.head_patterns import NULL_IN_WORDS, NULLS
from pipeline.report.site.head.shared import RunHeads
from pipeline.report.site.heads import Head, label_in_words


@dataclass(frozen=True)
class Fact:
    """One thing about a head at the top of its page: what, the value, and how it is known."""

    name: str
    value: str | Markup
    note: str


def facts(shared: RunHeads, head: Head) -> Iterator[Fact]:
    """Yield what is known about a head, each with the rule or the null that it rests on."""
    if head.onset is not None or not head.other_labels:
        yield _labelled(shared, head)
    for name, definition in head.other_labels.items():
        yield Fact("Label at the end", label_in_words(name), definition)
    if np.isfinite(head.score) and shared.main is not None:
        threshold = shared.main.threshold
        null = NULL_IN_WORDS[NULLS[str(head.pattern)]]
        yield Fact(
            f"{in_words(str(head.pattern)).capitalize()} score at the end", number(head.score),
            f"null {number(head.null)} ({null}); rule: at least {threshold:g} above it",
        )  # fmt: skip
    if (effect := head.effect) is not None:
        sign = "+" if effect.value > 0 else ""
        yield Fact(
            "Without it", f"{sign}{number(effect.value)} nats",
            f"increase of the {in_words(effect.variable)} when its output is zero, "
            f"step {effect.step:,}",
        )  # fmt: skip
    found = shared.partners.get(head.name)
    if found is not None and (reads := found.reads):
        link = Markup('<a href="head-{0}.html">{0}</a> by {1}, {2}')
        yield Fact(
            "Reads most from", link.format(reads[0].read, reads[0].path.upper(),
            number(reads[0].value)), f"random matrices give {number(reads[0].random)} on average",
        )  # fmt: skip
    for name, step, share in head.rises:
        yield Fact(
            "Vestigial", f"peak at step {step:,}",
            f"its {in_words(name)} score rose, and then lost {share:.0%} of the rise",
        )  # fmt: skip


def _labelled(shared: RunHeads, head: Head) -> Fact:
    onset = head.onset
    if onset is None:
        if shared.main is None:
            return Fact("Label", "unknown", "the store has no head scores")
        rule = f"no score stays at least {shared.main.threshold:g} above its null"
        return Fact("Label", head.label, rule)
    pattern = str(head.pattern)
    before = head.before[pattern]
    if before is None:
        value, note = f"from step {onset.step:,}", "at the first checkpoint with its scores"
    else:
        value = f"steps {before:,} to {onset.step:,}"
        note = "has the label from here on"
    if onset.until is not None:
        note += f", until step {onset.until:,}"
    if pattern in head.unconfirmed:
        note += "; no later checkpoint confirms it"
    if (one := onset.transition) is not None:
        low, high = one.midpoint_interval
        note += (
            f"; midpoint of its rise {one.midpoint:,.0f} (90% interval {low:,.0f} to {high:,.0f})"
        )
    if pattern == "induction" and head.lowers is not None:
        note += f"; {head.lowers.rule}"
    return Fact(f"Labelled {head.word(pattern)}", value, note)
