"""The page of a head: its label, its onset, its effect, its partners, and all its scores."""

from collections.abc import Iterator

from pipeline.report.site.blocks import Page, Section, Table
from pipeline.report.site.head.attention import attention_figure
from pipeline.report.site.head.facts import facts
from pipeline.report.site.head.figures import effect_figure, main_figure, other_figures
from pipeline.report.site.head.shared import RunHeads
from pipeline.report.site.head.tables import partner_tables, score_table
from pipeline.report.site.heads import Head
from pipeline.report.site.specs import Figure


def head_page(shared: RunHeads, place: int) -> Page:
    """Return the page of the head at a place among all heads."""
    head = shared.heads[place]
    beside = {
        "previous": shared.heads[place - 1] if place else None,
        "next": shared.heads[place + 1] if place + 1 < len(shared.heads) else None,
    }
    drawn: list[Figure | Table] = [*_figures(shared, head)]
    partners = list(partner_tables(shared, head))
    if len(drawn) % 2:  # two stand in a row: else half of it would be empty
        drawn, partners = [*drawn, *partners], []
    sections = [
        Section("score", "Over training", drawn),
        Section("partners", "Composition partners", partners),
        Section("scores", "Every score", [score_table(shared, head)]),
    ]
    return Page(
        head.href, "Heads", head.name,
        sections=[section for section in sections if section.items],
        template="head.html.j2",
        more={"head": head, "facts": list(facts(shared, head)), **beside},
    )  # fmt: skip


def _figures(shared: RunHeads, head: Head) -> Iterator[Figure]:
    """Yield all figures of a head, in such an order that those in a row are of similar height."""
    others: dict[bool, list[Figure]] = {True: [], False: []}
    for of_effects, made in other_figures(shared, head):
        others[of_effects].append(made)
    of_texts = [attention_figure(shared.run, patterns, head) for patterns in shared.attention]
    beside = [made for made in of_texts if made is not None]
    in_order = [main_figure(shared, head), *beside, effect_figure(shared, head), *others[True]]
    at = len(in_order) if beside else 1
    yield from (one for one in [*in_order[:at], *others[False], *in_order[at:]] if one is not None)
