"""The figures of a run for papers: the name, the caption, and a function that draws each."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.phases import RULES, phases
from pipeline.errors import InputError
from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import Heads, heads_of
from pipeline.findings.number_format import in_words, number
from pipeline.findings.sentences import by_measure, without_heads
from pipeline.report.downsample import MOST_LOSSES

# matplotlib is an optional dependency: the modules that import it are imported when they draw.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.report.paper.style import StepScale


class PaperFigure(NamedTuple):
    """One figure of a run: its name in file names, its caption, and a function of its width.

    draw: takes inches; None where there is nothing to draw.
    """

    name: str
    caption: str
    draw: "Callable[[float], Figure | None]"


def figures_of(
    run: xr.DataTree,
    changes: xr.Dataset,
    space: Callable[[str], xr.Dataset],
    scale: "StepScale" = "linear",
) -> Iterator[PaperFigure]:
    """Yield the figures that the content of a store allows.

    run: as `open_run` returns it. changes: its stored transitions. space: returns the stored loss
    space of a group, and is called only where that has the losses of tokens.
    """
    groups = by_measure(run)
    heads = _heads(groups)
    saved = {int(step) for of in groups.values() for one in of.values() for step in one["step"]}
    for name, losses in list(groups.get("token_loss", {}).items())[:1]:
        yield _what_happened(name, losses, heads, changes, scale)
        if "mean_by_position" in losses:
            yield _by_position(losses)
        if "loss" in losses:
            yield _loss_space(losses["loss"].size, lambda name=name: space(name))
    if heads is not None:
        yield from _mosaics(heads)
    for pairs in list(groups.get("composition", {}).values())[:1]:
        yield _composition(pairs)
    for progress in list(groups.get("modular_addition", {}).values())[:1]:
        yield _progress(progress, scale)
    if changes.sizes["series"]:
        yield _intervals(changes, np.array(sorted(saved)))


def _what_happened(
    name: str, losses: xr.Dataset, heads: Heads | None, changes: xr.Dataset, scale: "StepScale"
) -> PaperFigure:
    of_score = changes.isel(
        series=np.flatnonzero(
            (changes["variable"].values == "in_context_score") & (changes["group"].values == name)
        )
    )
    ends = np.stack([of_score[name].values.ravel() for name in ("onset", "end")], axis=-1)
    spans = [(float(a), float(b)) for a, b in ends[np.isfinite(ends).all(axis=1)]]

    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.lines import what_happened_when

        return what_happened_when(losses, heads, spans, width, scale)

    shaded = " Shaded: from 10 to 90% of each sudden change of the in-context score." * bool(spans)
    formed = "" if heads is None else (
        f" Heads: those that exceeded the null of a pattern by at least {heads.threshold:g}, with "
        "the score of the pattern whose null they exceed most at the end."
    )  # fmt: skip
    return PaperFigure(
        "what-happened-when",
        f"Mean loss and in-context score on fixed sequences over training.{shaded}{formed}",
        draw,
    )


def _by_position(losses: xr.Dataset) -> PaperFigure:
    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.lines import loss_by_position

        return loss_by_position(losses["mean_by_position"], width)

    caption = (
        "Mean loss at each token, at checkpoints evenly spaced among those that were saved, dark: "
        "late; the others are left out."
    )
    return PaperFigure("loss-by-position", caption, draw)


def _loss_space(numbers: int, stored: Callable[[], xr.Dataset]) -> PaperFigure:
    if numbers > MOST_LOSSES:
        why = f"{numbers:,} stored losses are too many; see the command `ontogeny losses`."
        return PaperFigure("loss-space", why, lambda _: None)
    try:
        space = stored()
        corner = find_corner(space).sel(window="whole")
    except InputError as error:  # too few checkpoints
        return PaperFigure("loss-space", f"{error}.", lambda _: None)
    p = float(max(corner["p_walks"], corner["p_flipped"]))
    is_corner = bool(np.isfinite(corner["step"]))

    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.changes import loss_space

        return loss_space(space, int(corner["step"]) if is_corner else None, width)

    turn = "It turns a corner" if is_corner else "Its sharpest turn is no corner, being"
    return PaperFigure(
        "loss-space",
        "Losses on all tokens at each checkpoint, on their two principal components over "
        f"checkpoints, dark: late; some steps are named. {turn} at step "
        f"{int(corner['candidate']):,} (p = {number(p)} under random walks).",
        draw,
    )


def _mosaics(heads: Heads) -> Iterator[PaperFigure]:
    from pipeline.report.paper.lines import formed_patterns

    for pattern in formed_patterns(heads) or ["induction"]:
        score = heads.scores[pattern]

        def draw(width: float, score: xr.DataArray = score) -> "Figure | None":
            from pipeline.report.paper.heads import mosaic

            return mosaic(score, width)

        yield PaperFigure(
            f"heads-{pattern.replace('_', '-')}",
            f"The {in_words(pattern)} score of all heads at a few checkpoints, evenly spaced in "
            "log(1 + step) from where the scores begin to change; white: undefined or 0. The other "
            "checkpoints are left out.",
            draw,
        )


def _composition(pairs: xr.Dataset) -> PaperFigure:
    last = pairs.isel(step=-1).load()

    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.heads import composition

        return composition(last, width)

    caption = (
        f"K, Q and V composition of all pairs of heads at step {int(last['step']):,}. The scale "
        "begins at the mean for random matrices of the same shape; white: at or below it, or no "
        "pair."
    )
    return PaperFigure("composition", caption, draw)


def _progress(group: xr.Dataset, scale: "StepScale") -> PaperFigure:
    found = phases(group)

    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.lines import progress

        return progress(group, found, width, scale)

    shaded = f" {RULES}" if found else " The phases are undefined for this run."
    caption = f"Progress measures; dotted: the loss below which a run has solved its task.{shaded}"
    return PaperFigure("progress-measures", caption, draw)


def _intervals(changes: xr.Dataset, steps: np.ndarray) -> PaperFigure:
    from pipeline.report.paper.changes import left_out

    def draw(width: float) -> "Figure | None":
        from pipeline.report.paper.changes import intervals

        return intervals(changes, steps, width)

    left = left_out(changes)
    return PaperFigure(
        "transitions",
        "Sudden changes: thin, from 10 to 90% of the change; thick, the 90% interval of its "
        "midpoint; triangles point upwards where the series rises."
        + (f" Left out: {left}." if left else ""),
        draw,
    )


def _heads(groups: dict[str, dict[str, xr.Dataset]]) -> Heads | None:
    """Return the first group of head scores, that on the default input if it exists."""
    name = next(iter(groups.get("head_scores", {})), None)
    heads = None if name is None else heads_of(groups, name)
    if heads is None or without_heads(heads.scores) or not has_numbers(heads.scores["induction"]):
        return None
    return heads
