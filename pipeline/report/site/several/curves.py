"""Numbers of several runs on one axis: by step, by tokens, or aligned on an onset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Real

from pipeline.aggregate.phases import SOLVED, milestones
from pipeline.aggregate.side_by_side import ALL
from pipeline.findings.gaps import has_numbers
from pipeline.findings.heads import onsets, strongest
from pipeline.findings.number_format import counted, in_words
from pipeline.report.site.arrays import Json, exact
from pipeline.report.site.heads import main_scores
from pipeline.report.site.run_data import Run
from pipeline.report.site.several.sets import Sets
from pipeline.report.site.specs import (
    Figure,
    Source,
    figure,
    log_ends,
    series,
    source,
    together,
    y_axis,
)
from pipeline.report.transition_rows import LOSSES

FEWEST = 3  # runs of a set from which on its range is drawn
_FORMED = "the first induction head"
_SOLVED = f"test loss stays below {SOLVED:g} nats"


@dataclass(frozen=True)
class _Lines:
    """One number of several runs.

    onsets: by run, of `event`; runs without one are not in it. origin: the lines that give it.
    """

    id: str
    title: str
    unit: str
    values: Mapping[str, xr.DataArray]
    onsets: Mapping[str, float]
    event: str
    origin: Source

    @property
    def is_log(self) -> bool:
        """Return whether the numbers are losses of grokking, which go to zero."""
        return self.event == _SOLVED


def curves(sets: Sets) -> Iterator[Figure]:
    """Yield each number that at least two runs have, with the range of each set of runs.

    A figure offers steps, tokens and steps since the onset. With ranges the onset has a figure of
    its own, as the range of runs that are shifted against each other has other numbers.
    """
    for lines in _numbers(sets.runs):
        made = _ranges(sets, lines)
        yield _figure(sets, lines, made)
        aligned = {name: since for name, since in _since(lines).items() if np.isfinite(since).any()}
        if made and len(aligned) > 1:
            yield _aligned(sets, lines, aligned)


def _numbers(every: Sequence[Run]) -> Iterator[_Lines]:
    """Yield the numbers that at least two runs have."""
    formed = {run.name: at for run in every if (at := _formed(run)) is not None}
    solved = {run.name: at for run in every if (at := _solved(run)) is not None}
    for measure, names in LOSSES.items():
        of, event = (solved, _SOLVED) if measure == "modular_addition" else (formed, _FORMED)
        for name in names:
            found = [(run, *first) for run in every if (first := run.first(measure))
                     and name in first[1] and has_numbers(first[1][name])]  # fmt: skip
            if len(found) > 1:
                title = "Mean loss" if name == "mean" else in_words(name).capitalize()
                values = {run.name: rows[name] for run, _, rows in found}
                origin = together(source(run.uri, group, name) for run, group, _ in found)
                yield _Lines(f"{measure}-{name}", title, "nats", values, of, event, origin)
    scored = [(run, *heads) for run in every
              if (heads := main_scores(run)) and "induction" in heads[1].scores]  # fmt: skip
    if len(scored) > 1:
        best = {run.name: strongest(heads.scores["induction"]) for run, _, heads in scored}
        origin = together(_highest(run.uri, group) for run, group, _ in scored)
        title = "Highest induction score of any head"
        yield _Lines("induction", title, "", best, formed, _FORMED, origin)


def _highest(uri: str, group: str) -> Source:
    one = source(uri, group, "induction")
    return Source(f"{one.python}.max(['layer', 'head'])", one.command)


def _formed(run: Run) -> float | None:
    found = main_scores(run)
    made = [] if found is None else onsets(found[1], "induction")
    return float(made[0].step) if made else None


def _solved(run: Run) -> float | None:
    found = run.first("modular_addition")
    at = None if found is None else milestones(found[1])["test_loss"]
    return None if at is None else float(at)


def _figure(sets: Sets, lines: _Lines, made: "list[_Range]") -> Figure:
    """Return a line for each run, over the range of the runs of its set."""
    drawn = [_line(sets, lines, name) for name in lines.values] + [one.series for one in made]
    steps = [one["step"].values for one in lines.values.values()] + [one.steps for one in made]
    axes = [{"name": "steps", "label": "step", "scale": "step",
             "values": [exact(one) for one in steps]}]  # fmt: skip
    note = "A line for each run" + (f"; areas: the range over {sets.spread}." if made else ".")
    seen = [_tokens(one) for one in lines.values.values()] + [one.tokens for one in made]
    if all(one is not None for one in seen):
        axes.append({"name": "tokens", "label": "tokens seen", "scale": "step",
                     "values": [exact(one) for one in seen if one is not None]})  # fmt: skip
    else:
        note += " Not by tokens: they are not known, or not the same in all runs of a set."
    since = _since(lines)
    if not made and any(np.isfinite(one).any() for one in since.values()):
        axes.append({"name": "onset", "label": f"steps since {lines.event}", "scale": "linear",
                     "values": [exact(one) for one in since.values()]})  # fmt: skip
        note += _without(lines)
    spec: Json = {"kind": "lines", "x": axes[0], "axes": axes,
                  "y": _y_axis(lines), "series": drawn}  # fmt: skip
    return figure(f"runs-{lines.id}", lines.title, note, spec, "runs", lines.origin)


def _y_axis(lines: _Lines) -> Json:
    """Return the vertical axis: logarithmic for losses that fall by many powers of ten."""
    axis = y_axis(lines.title.lower(), lines.unit)
    if not lines.is_log or (ends := log_ends(one.values for one in lines.values.values())) is None:
        return axis
    return axis | {"scale": "log", "domain": list(ends)}


def _aligned(sets: Sets, lines: _Lines, since: Mapping[str, np.ndarray]) -> Figure:
    """Return the runs on steps since the onset, with the range over each set."""
    drawn = [_line(sets, lines, name) for name in since]
    xs, note = list(since.values()), "A line for each run"
    for of in dict.fromkeys(sets.of[name] for name in since):
        inside = [name for name in since if sets.of[name] == of]
        if len(inside) >= FEWEST:
            grid, every = _on_grid([(since[name], lines.values[name].values) for name in inside])
            if len(grid):
                drawn.append(_range_of(sets, of, inside[0], every))
                xs.append(grid)
                note = (
                    f"A line for each run; areas: the range over {sets.spread}, at the checkpoints "
                    "of any of them, between which values are interpolated"
                )
    axis = {"label": f"steps since {lines.event}", "scale": "linear",
            "values": [exact(one) for one in xs]}  # fmt: skip
    note += "." + _without(lines)
    spec = {"kind": "lines", "x": axis, "y": _y_axis(lines), "series": drawn}
    title = f"{lines.title}, aligned"
    return figure(f"runs-{lines.id}-onset", title, note, spec, "runs", lines.origin)


def _on_grid(
    inside: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, "run step"]]:
    """Return all steps of some runs where each of them has numbers, and these by interpolation."""
    known = [(x[ok], y[ok].astype(np.float64)) for x, y in inside if (ok := np.isfinite(y)).any()]
    first, last = max(x[0] for x, _ in known), min(x[-1] for x, _ in known)
    grid = np.unique(np.concatenate([x for x, _ in known]))
    grid = grid[(grid >= first) & (grid <= last)].astype(np.float64)
    return grid, np.stack([np.interp(grid, x, y) for x, y in known])


def _line(sets: Sets, lines: _Lines, name: str) -> Json:
    slug = next(run.slug for run in sets.runs if run.name == name)
    return series(name, lines.values[name].values, sets.roles[name], href=f"{slug}/overview.html")


def _since(lines: _Lines) -> dict[str, Float[np.ndarray, " step"]]:
    """Return the steps of each run since its onset; NaN in a run without one."""
    return {name: values["step"].values - lines.onsets.get(name, np.nan)
            for name, values in lines.values.items()}  # fmt: skip


def _without(lines: _Lines) -> str:
    count = len(lines.values.keys() - lines.onsets.keys())
    return f" Without an onset, and not on its axis: {counted(count, 'run')}." if count else ""


@dataclass(frozen=True)
class _Range:
    """Median and range of a set of runs at the same steps. tokens: None where they differ."""

    series: Json
    steps: np.ndarray
    tokens: np.ndarray | None


def _ranges(sets: Sets, lines: _Lines) -> list[_Range]:
    """Return the range of each set with three runs or more at the same steps."""
    made = []
    for of in dict.fromkeys(sets.of.values()):
        names = [name for name in lines.values if sets.of[name] == of]
        inside = [lines.values[name] for name in names]
        same = all(np.array_equal(one["step"], inside[0]["step"]) for one in inside)
        if len(inside) >= FEWEST and same:
            seen = [_tokens(one) for one in inside]
            tokens = seen[0] if all(_equal(one, seen[0]) for one in seen) else None
            every = np.stack([one.values for one in inside]).astype(np.float64)
            made.append(_Range(_range_of(sets, of, names[0], every), inside[0]["step"].values,
                               tokens))  # fmt: skip
    return made


def _range_of(sets: Sets, of: str, name: str, every: Real[np.ndarray, "run step"]) -> Json:
    role = sets.roles[name] if len(set(sets.of.values())) > 1 else "loss"
    called = "median" if of == ALL else f"median, {of}"
    return series(called, np.median(every, axis=0), role, low=every.min(0), high=every.max(0),
                  emphasis=True)  # fmt: skip


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _tokens(values: xr.DataArray) -> Float[np.ndarray, " step"] | None:
    """Return the tokens seen at each step; None where any is unknown."""
    if "tokens_seen" not in values.coords:
        return None
    seen = np.asarray(values["tokens_seen"].values, dtype=np.float64)
    return seen if np.isfinite(seen).all() else None
