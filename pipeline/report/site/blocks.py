"""The parts of a page besides figures: tables, paragraphs, sections."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from pipeline.findings.number_format import number
from pipeline.report.site.specs import Figure

DASH = "–"


@dataclass(frozen=True)
class Column:
    """A column. id: its name in code, which pages do not show. note: what its numbers are."""

    id: str
    title: str
    is_number: bool = False
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell. value: by which it is sorted; text where None. role: of a mark in colour."""

    text: str | Markup
    value: float | int | None = None
    href: str = ""
    role: str = ""

    @property
    def key(self) -> str:
        """Return what the cell is sorted by, with every digit of a number."""
        if self.value is None:
            return str(self.text)
        return repr(self.value) if np.isfinite(self.value) else ""


@dataclass(frozen=True)
class Table:
    """A table that sorts, and filters where it has many rows."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str | Markup = ""

    @property
    def has_filter(self) -> bool:
        """Return whether the table has rows enough for a filter."""
        return len(self.rows) > 6


@dataclass(frozen=True)
class Text:
    """Paragraphs, or a list of sentences. as_code: keep its line breaks."""

    paragraphs: Sequence[str | Markup]
    as_code: bool = False
    as_list: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading. id: its place in the page."""

    id: str
    title: str
    items: Sequence[Figure | Table | Text]
    note: str | Markup = ""


@dataclass(frozen=True)
class Page:
    """A page of a run. nav: the entry of the navigation that it belongs to."""

    file: str
    nav: str
    title: str
    lead: str | Markup = ""
    sections: Sequence[Section] = ()
    template: str = "page.html.j2"
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def figures(self) -> Iterable[Figure]:
        """Yield the figures of all sections."""
        return (i for s in self.sections for i in s.items if isinstance(i, Figure))


def number_cell(value: float, href: str = "", sign: bool = False) -> Cell:
    """Return a number as text, sorted by all its digits. sign: with a plus where positive."""
    if not np.isfinite(value):
        return Cell(DASH, float("nan"))
    plus = "+" if sign and value > 0 else ""
    return Cell(plus + number(value), float(value), href)
