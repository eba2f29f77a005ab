"""The transitions of all series of a run, as one table of arrays."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.fitting import MOST
from pipeline.aggregate.sequence_intervals import with_sequence_intervals
from pipeline.aggregate.series import SeriesBlock, left_out, loss_groups, series_blocks
from pipeline.aggregate.transitions import Scanned, Transition, scan
from pipeline.aggregate.variables import variable

VERSION = 3  # another where the same rows give other numbers
_EACH = ("series", "transition")
COLUMNS: dict[str, tuple[tuple[str, ...], str, str]] = {  # dimensions, unit, definition
    "shape": (("series",), "1", "Sudden, smooth, none or cannot tell."),
    "spikes": (("series",), "1", "Values replaced by their running median."),
    "not_finite": (("series",), "1", "Values left out, as not finite."),
    "onset": (_EACH, "steps", "Step at which 10% of a change are done."),
    "midpoint": (_EACH, "steps", "Step at which half of a change is done."),
    "end": (_EACH, "steps", "Step at which 90% of a change are done."),
    "amplitude": (_EACH, "unit of the series", "Size of a change."),
    **{
        f"{name}_{side}": (_EACH, unit, f"{which} end of the 90% interval of the {name}.")
        for name, unit in (
            ("onset", "steps"),
            ("midpoint", "steps"),
            ("end", "steps"),
            ("amplitude", "unit of the series"),
        )
        for side, which in (("low", "Lower"), ("high", "Upper"))
    },
    "width": (_EACH, "decades", "log10 of end over onset."),
    "width_tokens": (_EACH, "tokens", "Tokens from onset to end; NaN where unknown."),
    "midpoint_tokens": (_EACH, "tokens", "Tokens seen at the midpoint; NaN where unknown."),
    "evidence": (_EACH, "1", "Twice the log likelihood ratio to the best smooth curve."),
    "excess_after": (
        _EACH, "unit of the series",
        "Median excess of the series over its null from a change's end to the next; NaN without a "
        "null.",
    ),
    "interval_from": (
        _EACH, "1", "Intervals are from residuals, or from both these and resampled sequences.",
    ),
    "found_again": (
        _EACH, "1",
        "Share of resamples of sequences that have the change; NaN where losses of sequences are "
        "not stored.",
    ),
}  # fmt: skip
_TEXTS = ("group", "variable", "unit")  # coordinates of the series; "" where the unit is unknown
_NUMBERS = ("layer", "head")


def transitions_of(run: xr.DataTree) -> xr.Dataset:
    """Return the transitions of all series of a run (dims: series, transition).

    run: as `pipeline.open_run` returns it. Coordinates along "series": group, variable, unit, layer
    and head (-1 where there is none). Entries without a transition are NaN. Attributes: left_out,
    the variables that are not series.
    """
    rows: list[dict[str, object]] = []
    for block in series_blocks(run):
        rows += _rows_of(block)
    labels = {name: np.array([row[name] for row in rows], dtype=object) for name in _TEXTS}
    labels |= {name: np.array([row[name] for row in rows], dtype=np.int64) for name in _NUMBERS}
    table = xr.Dataset(
        {
            name: variable(dims, _column(name, dims, rows), units, definition)
            for name, (dims, units, definition) in COLUMNS.items()
        },
        {name: ("series", of) for name, of in labels.items()} | {"transition": np.arange(MOST)},
        {"version": VERSION, "left_out": left_out(run)},
    )
    return with_sequence_intervals(table, loss_groups(run))


def _rows_of(block: SeriesBlock) -> list[dict[str, object]]:
    values = block.values
    entries = [str(dim) for dim in values.dims if dim != "step"]
    steps = values["step"].values
    flat = values.values.reshape(-1, len(steps)).astype(np.float64)
    excess = None if block.excess is None else block.excess.values.reshape(-1, len(steps))
    labels = np.indices(values.shape[:-1]).reshape(len(entries), len(flat))
    tokens = values["tokens_seen"].values if "tokens_seen" in values.coords else None
    rows = []
    for i, found in enumerate(scan(steps, flat)):
        place = {dim: int(values[dim].values[labels[n, i]]) for n, dim in enumerate(entries)}
        rows.append(
            {
                "group": block.group,
                "variable": block.variable,
                "unit": block.values.attrs.get("units", ""),
                "layer": place.get("layer", -1),
                "head": place.get("head", -1),
                **_described(found, steps, tokens, None if excess is None else excess[i]),
            }
        )
    return rows


def _described(
    found: Scanned,
    steps: np.ndarray,
    tokens: np.ndarray | None,
    excess: np.ndarray | None,
) -> dict[str, object]:
    rows = {"shape": found.shape, "spikes": found.spikes, "not_finite": found.left_out}
    each = found.transitions
    numbers: dict[str, list[float]] = {
        name: [getattr(one, name) for one in each]
        for name in ("onset", "midpoint", "end", "amplitude", "width", "evidence")
    }
    for name in ("onset", "midpoint", "end", "amplitude"):
        for side, which in enumerate(("low", "high")):
            numbers[f"{name}_{which}"] = [getattr(one, f"{name}_interval")[side] for one in each]
    numbers["midpoint_tokens"] = [_tokens_at(one.midpoint, steps, tokens) for one in each]
    numbers["width_tokens"] = [
        _tokens_at(one.end, steps, tokens) - _tokens_at(one.onset, steps, tokens) for one in each
    ]
    numbers["interval_from"], numbers["found_again"] = [], []  # see with_sequence_intervals
    numbers["excess_after"] = _excess_after(each, steps, excess)
    return {**rows, **numbers}


def _tokens_at(step: float, steps: np.ndarray, tokens: np.ndarray | None) -> float:
    """Return the tokens seen at a step between two checkpoints; NaN beyond them or if unknown."""
    if tokens is None:
        return float("nan")
    return float(np.interp(step, steps, tokens, left=np.nan, right=np.nan))


def _excess_after(
    each: Sequence[Transition], steps: np.ndarray, excess: np.ndarray | None
) -> list[float]:
    if excess is None:
        return [float("nan")] * len(each)
    found = []
    for place, one in enumerate(each):
        until = each[place + 1].onset if place + 1 < len(each) else np.inf
        after = excess[(steps >= one.end) & (steps < until)]
        after = after[np.isfinite(after)]
        found.append(float(np.median(after)) if after.size else float("nan"))
    return found


def _column(
    name: str, dims: tuple[str, ...], rows: Sequence[dict[str, object]]
) -> np.ndarray | Float[np.ndarray, "series transition"]:
    values = [row[name] for row in rows]
    if dims == ("series",):
        return np.array(values, dtype=object if name == "shape" else np.int64)
    texts = name == "interval_from"
    filled = np.full((len(rows), MOST), "" if texts else np.nan, dtype=object if texts else float)
    for i, of in enumerate(values):
        assert isinstance(of, list)
        filled[i, : len(of)] = of
    return filled
