"""The section on several runs: their transitions on one axis."""

from collections.abc import Mapping

import xarray as xr

from pipeline.aggregate.side_by_side import side_by_side
from pipeline.query.side_by_side import sets_of
from pipeline.query.transitions import joined
from pipeline.report.interval_bars import Bar, interval_bars
from pipeline.report.plates import Plate, Section
from pipeline.report.theme import BLUE, LINES, sequence
from pipeline.report.transition_rows import ERRORS, LOSSES, series_name

MOST_ROWS = 20


def runs_section(
    opened: Mapping[str, xr.DataTree], found: Mapping[str, xr.Dataset]
) -> Section | None:
    """Return the section of several runs, by name, with their transitions `found`.

    None where no run has a transition of a loss, and none the first head of a pattern.
    """
    if not any(table.sizes["series"] for table in found.values()):
        return None
    sets, spread = sets_of(opened)
    made = side_by_side(joined(found), sets=sets)
    drawn = [i for i in range(made.sizes["event"]) if _is_drawn(made.isel(event=i))]
    made = made.isel(event=drawn)
    made = made.isel(event=made["midpoint"].median("run").argsort().values[:MOST_ROWS])
    if not made.sizes["event"]:
        return None
    labels = [_label(made.isel(event=i)) for i in range(made.sizes["event"])]
    caption = (
        "The midpoint of each run's change (upwards where the series rises) with its 90% interval, "
        "the earliest first; in brackets, how many of the runs that store the series have it. "
        f"{made.attrs['rule']} {spread}"
    )
    plate = Plate(
        "Transitions of all runs", caption, (interval_bars(labels, _bars(made)),), wide=True
    )
    note = f"{ERRORS} The command ontogeny transitions prints the numbers (--axis steps)."
    return Section("", "Side by side", "", (plate,), note=note)


def _is_drawn(event: xr.Dataset) -> bool:
    """Return whether an event is one of a loss, or the first head of a pattern, in some run."""
    measure = str(event["group"].item()).partition(".")[0]
    of_loss = event["variable"].item() in LOSSES.get(measure, ())
    named = of_loss or event["change"].item() == "first head"
    return named and bool((event["shape"] == "sudden").any())


def _label(event: xr.Dataset) -> str:
    name = series_name(str(event["group"].item()), str(event["variable"].item()))
    change = str(event["change"].item())
    named = f"first head: {name}" if change == "first head" else f"{name}, {change}"
    shapes = event["shape"].values
    return f"{named} ({(shapes == 'sudden').sum()} of {(shapes != 'not stored').sum()})"


def _bars(made: xr.Dataset) -> list[Bar]:
    runs, sets = made["run"].values.tolist(), made["set_of"].values.tolist()
    # Colours show the set of a run, or the run if there are few; the hover text names it always.
    keys = sets if made.sizes["set"] > 1 else runs if len(runs) <= len(LINES) else [""] * len(runs)
    distinct = list(dict.fromkeys(keys))
    several = LINES if len(distinct) <= len(LINES) else sequence(len(distinct))
    colours = dict(zip(distinct, several if any(distinct) else [BLUE], strict=False))
    bars = []
    for row in range(made.sizes["event"]):
        for lane, (run, key) in enumerate(zip(runs, keys, strict=True)):
            one = made.isel(event=row, run=lane)
            if one["shape"] == "sudden":
                low, high = float(one["place_low"]), float(one["place_high"])
                bars.append(
                    Bar(row, run, colours[key], float(one["midpoint"]), low, high,
                        float(one["amplitude"]) > 0,
                        detail=f"between {low:,.0f} and {high:,.0f}", lane=lane, legend=key)
                )  # fmt: skip
    return bars
