"""The parts of a page: sections, and the plates in them."""

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True)
class Plate:
    """A block of the page: one or two plots with a title and a caption.

    wide: whether it has the page's full width. frames: the steps of its mosaic, if it has one.
    """

    title: str
    caption: str
    plots: tuple[go.Figure, ...]
    wide: bool = False
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Section:
    """The plates of one group, and the definition of its measure.

    undrawn: variables that have too many dimensions for a figure. undefined: why some are NaN at
    every checkpoint. empty: other variables without a finite number. None of these is drawn. note:
    what the section says below its figures. group, definition: empty for what no measure made.
    """

    group: str
    title: str
    definition: str
    plates: tuple[Plate, ...]
    undrawn: tuple[str, ...] = ()
    undefined: str = ""
    empty: tuple[str, ...] = ()
    note: str = ""

    @property
    def frames(self) -> tuple[int, ...]:
        """The steps of its mosaics, which share one slider; empty without any."""
        return next((plate.frames for plate in self.plates if plate.frames), ())
