"""The style of figures for papers: sizes in inches, fonts, colours, axes. Needs matplotlib."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, QUIET, FAINT, GRID = "#24292f", "#6a737d", "#c3c8ce", "#eceef0"

# Okabe & Ito 2008, safe for the colour-blind, without its yellow: too light for a line on white.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9",
)  # fmt: skip

StepScale = Literal["linear", "log"]

# Inches: 85 and 175 mm, which fit the columns of most journals and of two-column proceedings.
WIDTHS = {"1-column": 3.35, "2-columns": 6.89}

# One colour for each pattern and loss in all figures.
ROLES = {
    "induction": VERMILLION, "previous_token": BLUE, "duplicate_token": PURPLE,
    "first_token": ORANGE, "current_token": GREEN,
    "mean": INK, "in_context_score": INK,
    "train_loss": BLUE, "restricted_loss": GREEN, "test_loss": VERMILLION, "excluded_loss": PURPLE,
    "gini_embedding": BLUE, "gini_neuron_logit": SKY, "logit_variance_explained": INK,
}  # fmt: skip
# One hue, lightness falling evenly. White is no colour of a score: undefined cells, and those below
# the scale.
SCORES = LinearSegmentedColormap.from_list(
    "scores",
    ["#f6f8fa", "#d3e3f0", "#9fc3df", "#5c9bc8", "#22699f", "#0a3357"],
    bad="#ffffff",
    under="#ffffff",
)

_STYLE: dict[Any, Any] = {
    # Comes with matplotlib, so that a figure is the same on every machine.
    "font.family": "DejaVu Sans", "font.size": 7, "text.color": INK,
    "axes.titlesize": 7, "axes.titlelocation": "left", "axes.labelsize": 7,
    "xtick.labelsize": 6, "ytick.labelsize": 6, "legend.fontsize": 6,
    "axes.labelcolor": INK, "axes.edgecolor": QUIET, "axes.linewidth": 0.5,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.4, "axes.axisbelow": True,
    "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.major.width": 0.5, "ytick.major.width": 0.5, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "lines.linewidth": 1.0, "lines.solid_capstyle": "round", "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType fonts, embedded; journals refuse type 3
    "svg.fonttype": "path",  # letters as shapes: the file needs no font
    "svg.hashsalt": "ontogeny",  # the same ids each time
    "figure.constrained_layout.use": True,
    "figure.dpi": 300, "savefig.dpi": 300,
}  # fmt: skip


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply the style to figures that are made or saved within the block."""
    with mpl.rc_context(_STYLE):
        yield


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches. Not pyplot's, whose figures are global."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return a text for matplotlib, which would read what stands between dollar signs as TeX."""
    return text.replace("$", r"\$")


def step_axis(axes: Axes, steps: np.ndarray, scale: StepScale) -> None:
    """Set the x axis to optimizer steps, linear or as log(1 + step), which has a place for 0."""
    last = float(steps[-1])
    if scale == "log":
        axes.set_xscale("function", functions=(np.log1p, np.expm1))
        powers = 10.0 ** np.arange(np.floor(np.log10(max(last, 1))) + 1)
        axes.set_xticks([0.0, *powers])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlim(float(steps[0]), last)
    axes.set_xlabel("optimizer step")


def end_names(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write names (text, value, colour) right of the last points, moved apart where they touch.

    Axes must have their final limits.
    """
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    places = np.array([float(to_axes.transform((x, value))[1]) for _, value, _ in ends])
    places = _apart(places, _line_height(axes))
    for (text, _, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            plain(text), (1, place), xycoords="axes fraction", xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=6, color=colour,
            annotation_clip=False,
        )  # fmt: skip


def _line_height(axes: Axes) -> float:
    """Return the height of a line of text, as a share of the axes'."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout is made when it is drawn
    return 7.5 / 72 * figure.dpi / max(axes.get_window_extent().height, 1.0)


def _apart(places: np.ndarray, least: float) -> np.ndarray:
    """Return places that are at least so far apart, moved as little as a pass up and down needs."""
    order = np.argsort(places, kind="stable")
    moved = places[order].copy()
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + least)
    moved -= max(float((moved - places[order]).mean()), 0.0)
    found = np.empty_like(moved)
    found[order] = moved
    return found


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Return black or white, whichever has more contrast on a colour (WCAG 2.1, luminance)."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), channels))
    # Contrast with white is 1.05 / (L + 0.05), with black (L + 0.05) / 0.05.
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def ordered(count: int) -> list[tuple[float, float, float, float]]:
    """Return colours for an ordered set, light to dark."""
    return [SCORES(share) for share in np.linspace(0.35, 1.0, count)]
