"""The transitions that answers about losses refer to: of induction, mean loss and its score."""

from typing import Any

import numpy as np
import xarray as xr

from pipeline.measures.head_patterns import threshold_of


def loss_changes(
    table: xr.Dataset, run: xr.DataTree, group: str = "token_loss"
) -> dict[str, dict[str, Any] | None]:
    """Return the largest transitions of a run's induction heads, mean loss and in-context score.

    table: the run's transitions. run: as `pipeline.open_run` returns it. group: that of the losses.
    Keys: `induction` (of the heads that exceed their null by the threshold of
    `head_labels` after a rise, the one that does so most), `mean` and `in_context_score`. Values:
    `onset`, `midpoint`, `end`, `low` and `high` (steps; the last two bound the 90% interval of the
    midpoint), `amplitude`, `layer` and `head`; None where there is no transition.
    """
    labels = run["head_labels"].to_dataset() if "head_labels" in run.children else None
    rises = table["excess_after"].where(table["amplitude"] > 0)
    formed = rises.where(rises >= threshold_of(labels))
    size = abs(table["amplitude"])
    return {
        "induction": _largest(table, "head_scores", "induction", formed),
        "mean": _largest(table, group, "mean", size),
        "in_context_score": _largest(table, group, "in_context_score", size),
    }


def loss_shapes(table: xr.Dataset, group: str = "token_loss") -> dict[str, str]:
    """Return the shape of the mean loss and of the in-context score, where they are stored."""
    mine = table.isel(series=np.flatnonzero((table["group"] == group).values))
    shapes = dict(zip(mine["variable"].values.tolist(), mine["shape"].values.tolist(), strict=True))
    return {name: shapes[name] for name in ("mean", "in_context_score") if name in shapes}


def _largest(
    table: xr.Dataset, group: str, variable: str, size: xr.DataArray
) -> dict[str, Any] | None:
    """Return the largest transition of a variable by a size; None where all sizes are NaN."""
    mine = np.flatnonzero(((table["group"] == group) & (table["variable"] == variable)).values)
    rows, size = table.isel(series=mine), size.isel(series=mine)
    if not size.notnull().any():
        return None
    at = rows.isel(size.argmax(("series", "transition")))  # pyright: ignore[reportArgumentType]
    numbers = {name: float(at[name]) for name in ("onset", "midpoint", "end", "amplitude")}
    bounds = {"low": float(at["midpoint_low"]), "high": float(at["midpoint_high"])}
    return numbers | bounds | {name: int(at[name]) for name in ("layer", "head")}
