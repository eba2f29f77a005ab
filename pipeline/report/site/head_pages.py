"""The page of a head: its label, its onset, its effect, its partners, and all its scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.findings.heads import Heads
from pipeline.findings.number_format import in_words, number
from pipeline.measures.head_patterns import NULL_IN_WORDS, NULLS
from pipeline.report.site.arrays import Json, exact
from pipeline.report.site.attention import Patterns, attention_figure
from pipeline.report.site.blocks import DASH, Cell, Column, Page, Section, Table, number_cell
from pipeline.report.site.composition import MOST_PARTNERS, Partners
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run
from pipeline.report.site.scores import Score
from pipeline.report.site.specs import (
    Figure,
    band,
    figure,
    lines,
    role_of,
    series,
    source,
    step_axis,
    strips,
    y_axis,
)
from pipeline.report.site.thumbnails import NOTE, thumbnail

MOST_LINES = 32  # heads whose lines are drawn behind a head's own; of more, their range


@dataclass(frozen=True)
class Fact:
    """One thing about a head at the top of its page: what, the value, and how it is known."""

    name: str
    value: str | Markup
    note: str


@dataclass(frozen=True)
class Around:
    """The parts that the pages of all heads of a run share."""

    run: Run
    heads: Sequence[Head]
    group: str  # of the scores that label heads; "" without
    main: Heads | None
    scores: Sequence[Score]
    partners: Mapping[str, Partners]  # of each head, by its name
    step: int | None  # of the partners
    attention: Sequence[Patterns] = ()


def head_page(around: Around, place: int) -> Page:
    """Return the page of the head at a place among all heads."""
    head = around.heads[place]
    beside = {
        "previous": around.heads[place - 1] if place else None,
        "next": around.heads[place + 1] if place + 1 < len(around.heads) else None,
    }
    sections = [
        Section("score", "Over training", [*_main(around, head), *_effects(around, head)]),
        Section("attention", "Attention on text", list(_attention(around, head))),
        Section("scores", "Every score", [_score_table(around, head), *_every(around, head)]),
        Section("partners", "Composition partners", list(_partner_tables(around, head))),
    ]
    return Page(
        head.href, "Heads", head.name,
        sections=[section for section in sections if section.items],
        template="head.html.j2",
        more={"head": head, "facts": list(_facts(around, head)), **beside},
    )  # fmt: skip


def _facts(around: Around, head: Head) -> Iterator[Fact]:
    yield _labelled(around, head)
    if np.isfinite(head.score) and around.main is not None:
        threshold = around.main.threshold
        null = NULL_IN_WORDS[NULLS[str(head.pattern)]]
        yield Fact(
            f"{in_words(str(head.pattern)).capitalize()} score at the end", number(head.score),
            f"null {number(head.null)} ({null}); rule: at least {threshold:g} above it",
        )  # fmt: skip
    if (effect := head.effect) is not None:
        sign = "+" if effect.value > 0 else ""
        yield Fact(
            "Without it", f"{sign}{number(effect.value)} nats",
            f"{in_words(effect.variable)} when its output is zero, step {effect.step:,}",
        )  # fmt: skip
    found = around.partners.get(head.name)
    if found is not None and (reads := found.reads):
        link = Markup('<a href="head-{0}.html">{0}</a> by {1}, {2}')
        yield Fact(
            "Reads most from", link.format(reads[0].read, reads[0].path.upper(),
            number(reads[0].value)), f"random matrices give {number(reads[0].random)}",
        )  # fmt: skip
    for name, step, share in head.rises:
        yield Fact(
            "Vestigial", f"peak at step {step:,}",
            f"its {in_words(name)} score rose, and then lost {share:.0%} of the rise",
        )  # fmt: skip


def _labelled(around: Around, head: Head) -> Fact:
    onset = head.onset
    if onset is None:
        if around.main is None:
            return Fact("Label", "unknown", "the store has no head scores")
        rule = f"no score stays at least {around.main.threshold:g} above its null"
        return Fact("Label", head.label, rule if head.label == "no label" else "")
    before = head.before[str(head.pattern)]
    if before is None:
        value, note = f"from step {onset.step:,}", "at the first saved step"
    else:
        value = f"steps {before:,} to {onset.step:,}"
        note = "first labelled between these two checkpoints"
    if onset.until is not None:
        note += f"; until step {onset.until:,}"
    if (one := onset.transition) is not None:
        low, high = one.midpoint_interval
        note += (
            f"; midpoint of its rise {one.midpoint:,.0f} (90% interval {low:,.0f} to {high:,.0f})"
        )
    return Fact(f"Labelled {in_words(str(head.pattern))}", value, note)


def onset_band(head: Head) -> list[Json]:
    """Return the band of a head's onset: its rise from 10 to 90%, else the two checkpoints."""
    if (onset := head.onset) is None:
        return []
    if (one := onset.transition) is not None:
        return [band(one.onset, one.end, "10 to 90% of its rise")]
    before = head.before[str(head.pattern)]
    return [] if before is None else [band(before, onset.step, "first labelled")]


def _main(around: Around, head: Head) -> Iterator[Figure]:
    """Yield the score that a head is called after, with its null, its rule and the others."""
    score = next((s for s in around.scores if s.address == f"{around.group}/{head.pattern}"), None)
    own = None if score is None else score.of(head.layer, head.head)
    if score is None or own is None or around.main is None:
        return
    drawn = [*_others(around, score, head)]
    if (null := score.null_of(head.layer, head.head)) is not None:
        rule = (null + around.main.threshold).astype(np.float32)
        drawn.append(_stored("null", null, score.group, score.null_name, dashed=True))
        drawn.append(series("rule", rule, dashed=True))
    drawn.append(
        _stored(head.name, own, score.group, score.variable, role=head.role, emphasis=True)
    )
    y = y_axis(in_words(score.variable), score.unit, score.limits)
    note = f"{score.definition} Rule: a label needs {around.main.threshold:g} above the null."
    yield figure(
        "main", f"{score.title.capitalize()} over training", note,
        lines(step_axis(score.steps), y, drawn, onset_band(head)), f"{around.run.slug}-{head.name}",
        source(around.run.uri, score.group, score.variable, layer=head.layer, head=head.head),
    )  # fmt: skip


def _others(around: Around, score: Score, head: Head) -> Iterator[Json]:
    if len(around.heads) <= MOST_LINES:
        for other in around.heads:
            values = score.of(other.layer, other.head)
            if other != head and values is not None:
                yield series(other.name, values, href=other.href)
        return
    flat = score.values.reshape(len(score.steps), -1)
    if np.isfinite(flat).all():
        ends = {"low": exact(flat.min(axis=1)), "high": exact(flat.max(axis=1))}
        yield {"name": "all heads", "role": "none", **ends}


def _effects(around: Around, head: Head) -> Iterator[Figure]:
    """Yield the effect of removing the head at each step at which it was measured."""
    for score in around.scores:
        effect = head.effect
        if effect is None or (score.group, score.variable) != (effect.group, effect.variable):
            continue
        values = score.of(head.layer, head.head)
        if values is None:
            continue
        spec = lines(
            step_axis(score.steps), y_axis(in_words(score.variable), score.unit),
            [_stored(head.name, values, score.group, score.variable, role=head.role)],
        )  # fmt: skip
        yield figure(
            "effect", "Effect of removing it", score.definition, {**spec, "kind": "stems"},
            f"{around.run.slug}-{head.name}",
            source(around.run.uri, score.group, score.variable, layer=head.layer, head=head.head),
        )  # fmt: skip


def _attention(around: Around, head: Head) -> Iterator[Figure]:
    for patterns in around.attention:
        made = attention_figure(around.run, patterns, head)
        if made is not None:
            yield made


def _score_table(around: Around, head: Head) -> Table:
    columns = [
        Column("score", "score"), Column("end", "at the end", True),
        Column("null", "null then", True), Column("highest", "highest", True),
        Column("step", "at step", True), Column("line", "over training"),
    ]  # fmt: skip
    rows = [row for one in around.scores if (row := _score_row(one, head))]
    return Table("score-table", "Scores", columns, rows, NOTE)


def _score_row(score: Score, head: Head) -> list[Cell] | None:
    values = score.of(head.layer, head.head)
    if values is None or not np.isfinite(values).any():
        return None
    null = score.null_of(head.layer, head.head)
    top = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    role = role_of(score.variable)
    small = thumbnail(values, *score.limits, role, f"{score.title} over training")
    return [
        Cell(score.title, role=role), number_cell(float(values[-1])),
        Cell(DASH, float("nan")) if null is None else number_cell(float(null[-1])),
        number_cell(float(values[top])), Cell(f"{score.steps[top]:,}", int(score.steps[top])),
        Cell(small),
    ]  # fmt: skip


def _every(around: Around, head: Head) -> Iterator[Figure]:
    """Yield a figure for the numbers that share their steps, but for those drawn above."""
    effect = head.effect
    drawn = [(around.group, head.pattern), effect and (effect.group, effect.variable)]
    by_steps: dict[bytes, list[Score]] = {}
    for score in around.scores:
        if (score.group, score.variable) not in drawn:
            by_steps.setdefault(score.steps.tobytes(), []).append(score)
    for i, of in enumerate(by_steps.values()):
        panels = [panel for score in of if (panel := _panel(score, head))]
        if panels:
            yield figure(
                f"others-{i + 1}", "Other scores over training",
                "Each with its null, dashed, where one is stored.",
                strips(step_axis(of[0].steps), panels), f"{around.run.slug}-{head.name}",
                source(around.run.uri, of[0].group, of[0].variable, layer=head.layer,
                       head=head.head),
            )  # fmt: skip


def _panel(score: Score, head: Head) -> Json | None:
    values = score.of(head.layer, head.head)
    if values is None or not np.isfinite(values).any():
        return None
    drawn = [
        _stored("score", values, score.group, score.variable, role=role_of(score.variable),
                emphasis=True)
    ]  # fmt: skip
    if (null := score.null_of(head.layer, head.head)) is not None:
        drawn.insert(0, _stored("null", null, score.group, score.null_name, dashed=True))
    domain = score.limits if score.limits == (0.0, 1.0) else None
    y = y_axis(score.title, score.unit, domain)
    return {"kind": "lines", "y": y, "series": drawn}


def _stored(name: str, values: np.ndarray, group: str, variable: str, **more: object) -> Json:
    """Return a line of numbers as they are in the store, with their address there."""
    return series(name, values, **{"role": "none", **more, "of": f"{group}/{variable}"})  # type: ignore[arg-type]


def _partner_tables(around: Around, head: Head) -> Iterator[Table]:
    found = around.partners.get(head.name)
    if found is None:
        return
    reads = [(one.read, one) for one in found.reads]
    read_by = [(one.reader, one) for one in found.read_by]
    for id, title, other, pairs, count in (
        ("reads", "Reads from", "earlier head", reads, found.count_reads),
        ("read-by", "Read by", "later head", read_by, found.count_read_by),
    ):
        if not pairs:
            continue
        columns = [
            Column("head", other), Column("by", "by"), Column("composition", "composition", True),
            Column("above", "above random", True),
        ]  # fmt: skip
        rows = [
            [Cell(name, href=f"head-{name}.html"), Cell(one.path.upper(), role=one.path),
             number_cell(one.value), number_cell(one.above, sign=True)]
            for name, one in pairs
        ]  # fmt: skip
        more = f" Of {count:,}, the {MOST_PARTNERS} strongest." * (count > len(pairs))
        note = f"Above random matrices of the same shape, at step {around.step:,}.{more}"
        yield Table(f"partners-{id}", title, columns, rows, note)
