"""The transitions of all series of a run, as one table of arrays."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from pipeline.aggregate.described import Column
from pipeline.aggregate.fitting import MOST
from pipeline.aggregate.sequence_intervals import with_sequence_intervals
from pipeline.aggregate.series import SeriesBlock, left_out, loss_groups, series_blocks
from pipeline.aggregate.transitions import Scanned, Transition, scan

VERSION = 2  # another where the same rows give other numbers
_EACH = ("series", "transition")
COLUMNS = (
    Column("shape", ("series",), "", "sudden, smooth, none or cannot tell.", dtype="object"),
    Column("spikes", ("series",), "1", "Values replaced by their running median.", dtype="int64"),
    Column("not_finite", ("series",), "1", "Values left out, as not finite.", dtype="int64"),
    Column("onset", _EACH, "steps", "Step at which 10% of a change are done."),
    Column("midpoint", _EACH, "steps", "Step at which half of a change is done."),
    Column("end", _EACH, "steps", "Step at which 90% of a change are done."),
    Column("amplitude", _EACH, "unit of the series", "Size of a change."),
    *(
        Column(f"{name}_{side}", _EACH, unit, f"{which} end of the 90% interval of the {name}.")
        for name, unit in (
            ("onset", "steps"),
            ("midpoint", "steps"),
            ("end", "steps"),
            ("amplitude", "unit of the series"),
        )
        for side, which in (("low", "Lower"), ("high", "Upper"))
    ),
    Column("width", _EACH, "decades", "log10 of end over onset."),
    Column("width_tokens", _EACH, "tokens", "Tokens from onset to end; NaN where unknown."),
    Column("midpoint_tokens", _EACH, "tokens", "Tokens seen at the midpoint; NaN where unknown."),
    Column("evidence", _EACH, "1", "Twice the log likelihood ratio to the best smooth curve."),
    Column("excess_after", _EACH, "unit of the series",
             "Median excess of the series over its null from a change's end to the next; NaN "
             "without a null."),
    Column("interval_from", _EACH, "", "Intervals are from residuals, or from both these and "
             "resampled sequences.", dtype="object"),
    Column("found_again", _EACH, "1", "Share of resamples of sequences that have the change; NaN "
             "where losses of sequences are not stored."),
)  # fmt: skip


def transitions_of(run: xr.DataTree) -> xr.Dataset:
    """Return the transitions of all series of a run (dims: series, transition).

    run: as `pipeline.open_run` returns it. Coordinates along "series": group, variable, layer and
    head (-1 where there is none). Entries without a transition are NaN. Attributes: left_out, the
    variables that are not series.
    """
    rows: list[dict[str, object]] = []
    for block in series_blocks(run):
        rows += _rows_of(block)
    columns = {name: [row[name] for row in rows] for name in ("group", "variable", "layer", "head")}
    data = {one.name: (one.dims, _column(one, rows), one.attributes()) for one in COLUMNS}
    table = xr.Dataset(
        data,
        coords={
            **{name: ("series", np.array(of, dtype=object)) for name, of in columns.items()
               if name in ("group", "variable")},
            **{name: ("series", np.array(of, dtype=np.int64)) for name, of in columns.items()
               if name in ("layer", "head")},
            "transition": np.arange(MOST),
        },
        attrs={"version": VERSION, "left_out": left_out(run)},
    )  # fmt: skip
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
    return rows | numbers


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
    column: Column, rows: Sequence[dict[str, object]]
) -> np.ndarray | Float[np.ndarray, "series transition"]:
    values = [row[column.name] for row in rows]
    if column.dims == ("series",):
        return np.array(values, dtype=column.dtype)
    filled = np.full((len(rows), MOST), np.nan if column.dtype == "float64" else "", column.dtype)
    for i, of in enumerate(values):
        assert isinstance(of, list)
        filled[i, : len(of)] = of
    return filled
