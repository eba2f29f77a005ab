"""The figure of the three phases of grokking, over the losses that define them."""

import plotly.graph_objects as go
import xarray as xr

from pipeline.aggregate.phases import NAMES, Phase
from pipeline.findings.gaps import has_numbers
from pipeline.findings.number_format import in_words
from pipeline.report.combined_figures import LOSSES
from pipeline.report.drawing import LABEL_HEIGHT, TOP, mark_span
from pipeline.report.figures import lines
from pipeline.report.theme import BLUE, GREEN, VERMILLION

_COLOURS: dict[str, str] = dict(zip(NAMES, (BLUE, GREEN, VERMILLION), strict=True))


def three_phases(group: xr.Dataset, found: list[Phase]) -> go.Figure:
    """Return the losses on a linear axis, with a band for each phase that the run reached."""
    top = TOP + LABEL_HEIGHT * len(found)
    drawn = [name for name in LOSSES if has_numbers(group[name])]
    losses = {in_words(name): group[name] for name in drawn}
    colours = [LOSSES[name] for name in drawn]
    figure = lines(losses, "loss (nats)", colours=colours, height=380 + top, top=top)
    last = int(group["step"].max())
    for row, phase in enumerate(reversed(found)):
        end = last if phase.end is None else phase.end
        mark_span(figure, phase.start, end, described(phase), _COLOURS[phase.name], row)
    return figure


def described(phase: Phase) -> str:
    """Return the text for a phase with its steps."""
    if phase.end is None:
        return f"{phase.name} from step {phase.start:,} on"
    return f"{phase.name}: steps {phase.start:,} to {phase.end:,}"
