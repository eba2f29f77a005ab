"""The overview of a run: what happened when, what formed when, and all heads at the end."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from markupsafe import Markup

from pipeline.aggregate.phases import RULES, phases
from pipeline.aggregate.sequence_intervals import scan_losses
from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import onsets
from pipeline.findings.number_format import in_words, listed, number
from pipeline.report.site.arrays import Json
from pipeline.report.site.blocks import DASH, Cell, Column, Page, Section, Table, Text, number_cell
from pipeline.report.site.head.page import RunHeads
from pipeline.report.site.heads import Head
from pipeline.report.site.run_data import Run, axis_of
from pipeline.report.site.specs import (
    Figure,
    band,
    figure,
    log_ends,
    series,
    source,
    strips,
    together,
    y_axis,
)
from pipeline.report.site.text import bracket_of, linked, title_of
from pipeline.report.transition_rows import LOSSES

MOST_ROWS = 12  # of the table on the overview; all heads are on the page of the mosaic
MOST_LABELLED = 24  # lines of labelled heads in one strip


def overview_page(shared: RunHeads, below: Sequence[Figure]) -> Page:
    """Return the overview. below: the figures of its second screen."""
    run, names = shared.run, {head.name for head in shared.heads}
    first: list[Figure | Table | Text] = [*_what_happened(shared)]
    if shared.heads:
        first.append(heads_table(shared, MOST_ROWS))
    sections = [
        Section("when", "What happened when", first),
        Section("more", "Heads and losses", list(below)),
    ]
    said = [linked(sentence, names) for sentence in run.findings]
    return Page(
        "overview.html", "Overview", title_of(run), run.summary(),
        [section for section in sections if section.items],
        "overview.html.j2", {"findings": said},
    )  # fmt: skip


def _what_happened(shared: RunHeads) -> Iterator[Figure]:
    """Yield the strips of loss, in-context score and labelled heads, or of grokking."""
    run = shared.run
    if (made := run.first("modular_addition")) is not None:
        yield progress_strips(run, *made)
    panels, bands, steps = [], [], None
    if (found := run.first("token_loss")) is not None:
        group, losses = found
        steps = losses
        for name, role in LOSSES["token_loss"].items():
            if name not in losses or not run.says_something(group, name):
                continue
            title = "mean loss" if name == "mean" else in_words(name)
            drawn = series(title, losses[name].values, role, of=f"{group}/{name}", emphasis=True)
            panels.append({"kind": "lines", "height": 130, "y": y_axis(title, "nats"),
                           "series": [drawn]})  # fmt: skip
        bands += _score_band(losses)
    if shared.main is not None and (strip := _labelled_strip(shared)):
        same = steps is None or np.array_equal(
            steps["step"].values, shared.main.scores["step"].values
        )
        steps = shared.main.scores if steps is None else steps
        panels.append(strip if same else {**strip, "x": axis_of(shared.main.scores)})
        bands = [*_induction_band(shared), *bands]
    if panels and steps is not None:
        note = "Bands: from 10 to 90% of a change. A head's line is the score of its label."
        addresses = [str(line["of"]).rsplit("/", 1) for one in panels for line in one["series"]]
        yield figure("when-strips", "Losses and heads over training", note,
                     strips(axis_of(steps), panels, bands), run.slug,
                     together(source(run.uri, *address) for address in addresses))  # fmt: skip


def _score_band(losses: xr.Dataset) -> list[Json]:
    if "in_context_score" not in losses or not has_numbers(losses["in_context_score"]):
        return []
    one = scan_losses(losses, "in_context_score").largest
    if one is None:
        return []
    label = f"in-context score {'falls' if one.amplitude < 0 else 'rises'}"
    return [band(one.onset, one.end, label, "in_context")]


def _induction_band(shared: RunHeads) -> list[Json]:
    """Return the band of the first induction head, at the steps that the findings give."""
    formed = [] if shared.main is None else onsets(shared.main, "induction")
    if shared.main is None or not formed:
        return []
    place = formed[0].layer, formed[0].head
    first = next(head for head in shared.heads if (head.layer, head.head) == place)
    word = first.word("induction")
    if (one := formed[0].transition) is not None:
        return [band(one.onset, one.end, f"{first.name} becomes an {word} head")]
    when = bracket_of(shared.main, formed[0])
    return [] if when is None else [band(when.before, when.after, f"first {word} head")]


def _labelled_strip(shared: RunHeads) -> Json | None:
    scores = {one.variable: one for one in shared.scores if one.group == shared.group}
    labelled = sorted((h for h in shared.heads if h.onset), key=_highest_score)
    if len(labelled) > MOST_LABELLED:
        shared.run.leave_out(
            f"{len(labelled) - MOST_LABELLED} labelled heads in the strip of the overview",
            "those with the highest scores are drawn",
        )
    drawn = []
    for head in labelled[:MOST_LABELLED]:
        score = scores.get(str(head.pattern))
        values = None if score is None else score.of(head.layer, head.head)
        if score is not None and values is not None:
            drawn.append(series(head.name, values, head.role, href=head.href, of=score.address))
    y = y_axis("score of labelled heads", "", (0, 1))
    return {"kind": "lines", "height": 160, "y": y, "series": drawn} if drawn else None


def _highest_score(head: Head) -> float:
    return float(-np.nan_to_num(head.score, nan=-np.inf))


def heads_table(shared: RunHeads, at_most: int | None = None) -> Table:
    """Return what formed when: labelled heads by onset, then the others by their effect."""
    columns = [
        Column("head", "head"), Column("label", "label"),
        Column("formed", "labelled between", True), Column("midpoint", "midpoint", True),
        Column("score", "score", True), Column("null", "null", True),
        Column("effect", "without it", True),
    ]  # fmt: skip
    # The overview has room for six columns.
    left = [i for i, one in enumerate(columns) if at_most is None or one.id != "null"]
    ordered = sorted(shared.heads, key=_importance)
    shown = ordered if at_most is None else ordered[:at_most]
    notes = []
    if shared.main is not None:
        notes.append(
            f"A head has a label where its score stays at least {shared.main.threshold:g} above "
            "its null. Midpoint: of its rise, with the 90% interval. Score: at the last checkpoint."
        )
    if said := _said_of_effects(shared.heads):
        notes.append(said)
    note = Markup(" ").join(notes)
    if len(shown) < len(ordered):
        link = Markup('<a href="heads.html#heads-table">All {} heads</a>.').format(len(ordered))
        note = Markup("{} {}").format(note, link)
    return Table("heads-table", "What formed when", *_only(columns, shown, left), note)


def _said_of_effects(heads: Sequence[Head]) -> str:
    """Return what the column of effects holds; "" without any."""
    found = {(one.variable, one.step) for one in (head.effect for head in heads) if one}
    if not found:
        return ""
    each = [f"the {in_words(name)} at step {step:,}" for name, step in sorted(found)]
    return f"Without it: increase of {listed(each, len(each))}, in nats, when its output is zero."


def _only(
    columns: list[Column], heads: Sequence[Head], left: list[int]
) -> tuple[list[Column], list[list[Cell]]]:
    """Return some of the columns, and the rows of the heads in these."""
    rows = [_row(head) for head in heads]
    return [columns[i] for i in left], [[row[i] for i in left] for row in rows]


def _importance(head: Head) -> tuple[int, float, int, int]:
    effect = 0.0 if head.effect is None else abs(head.effect.value)
    if (onset := head.onset) is not None:
        return 0, float(onset.step), head.layer, head.head
    return 1, -effect, head.layer, head.head


def _row(head: Head) -> list[Cell]:
    onset = head.onset
    formed = midpoint = Cell(DASH, float("nan"))
    if onset is not None:
        before = head.before[str(head.pattern)]
        between = f"{onset.step:,}" if before is None else f"{before:,}–{onset.step:,}"
        formed = Cell(between, onset.step)
        if (one := onset.transition) is not None:
            low, high = one.midpoint_interval
            text = f"{one.midpoint:,.0f} ({low:,.0f}–{high:,.0f})"
            midpoint = Cell(text, float(one.midpoint))
    effect = Cell(DASH, float("nan"))
    if head.effect is not None:
        value = head.effect.value
        text = ("+" if value > 0 else "") + number(value)
        effect = Cell(text, value)
    label = head.label + (" (vestigial)" if head.rises else "")
    labelled = head.onset is not None
    return [
        Cell(head.name, head.layer * 100_000 + head.head, head.href), Cell(label, role=head.role),
        formed, midpoint, number_cell(head.score if labelled else float("nan")),
        number_cell(head.null if labelled else float("nan")), effect,
    ]  # fmt: skip


def progress_strips(run: Run, group: str, rows: xr.Dataset) -> Figure:
    """Return the losses of grokking on one axis, with its phases as bands."""
    drawn = [
        series(in_words(name), rows[name].values, role, of=f"{group}/{name}", emphasis=True)
        for name, role in LOSSES["modular_addition"].items()
        if has_numbers(rows[name])
    ]
    last = int(rows["step"].values[-1])
    bands = [
        band(one.start, last if one.end is None else one.end, one.name, role)
        for one, role in zip(phases(rows), ("train", "restricted", "test"), strict=False)
    ]
    losses = {
        "kind": "lines",
        "height": 260,
        "y": y_axis("loss", "nats", log_ends(rows[n].values for n in LOSSES["modular_addition"]))
        | {"scale": "log"},
        "series": drawn,
    }
    note = f"Phases: {RULES}" if bands else ""
    given = group.partition(".")[2]
    id = f"progress-strips-{given}" if given else "progress-strips"
    return figure(
        id, "Progress measures", note, strips(axis_of(rows), [losses], bands),
        run.slug, source(run.uri, group, "test_loss"),
    )  # fmt: skip
