"""The transitions that answers about losses refer to: of induction, mean loss and its score."""

from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.run_transitions import transitions_of

_INDUCTION = ("head_scores", "induction", "induction_null")


def loss_changes(run: xr.DataTree, group: str = "token_loss") -> dict[str, dict[str, Any] | None]:
    """Return the largest transitions of a run's induction heads, mean loss and in-context score.

    run: as `pipeline.open_run` returns it; group: that of the losses. Keys: `induction` (the head
    that exceeds its null most after its rise), `mean` and `in_context_score`. Values: `onset`,
    `midpoint`, `end`, `low` and `high` (steps; the last two bound the 90% interval of the
    midpoint), `amplitude`, `layer` and `head`; None where there is no transition.
    """
    table = transitions_of(_part(run, group))
    return {
        "induction": _largest(table, "head_scores", "induction"),
        "mean": _largest(table, group, "mean"),
        "in_context_score": _largest(table, group, "in_context_score"),
    }


def _part(run: xr.DataTree, group: str) -> xr.DataTree:
    """Return the few series that are needed, so that no others are fitted."""
    kept = {group: ("mean", "in_context_score"), _INDUCTION[0]: _INDUCTION[1:]}
    found = {name: run[name].to_dataset() for name in kept if name in run.children}
    return xr.DataTree.from_dict(
        {name: of[[one for one in kept[name] if one in of]] for name, of in found.items()}
    )


def _largest(table: xr.Dataset, group: str, variable: str) -> dict[str, Any] | None:
    """Return the largest transition of a variable; for heads, a rise beyond the null."""
    mine = (table["group"] == group) & (table["variable"] == variable)
    rows = table.isel(series=np.flatnonzero(mine.values))
    if variable == "induction":
        size = rows["excess_after"].where((rows["amplitude"] > 0) & (rows["excess_after"] > 0))
    else:
        size = abs(rows["amplitude"])
    if not size.notnull().any():
        return None
    at = rows.isel(size.argmax(("series", "transition")))  # pyright: ignore[reportArgumentType]
    numbers = {name: float(at[name]) for name in ("onset", "midpoint", "end", "amplitude")}
    bounds = {"low": float(at["midpoint_low"]), "high": float(at["midpoint_high"])}
    return numbers | bounds | {name: int(at[name]) for name in ("layer", "head")}
