"""Answers about several series of a run, and about several runs: see docs/transitions.md."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.coincidence import coincidences
from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.head_places import head_midpoints, with_head_permutation
from pipeline.aggregate.induction_share import induction_shares
from pipeline.aggregate.lag import Place
from pipeline.aggregate.loss_space import loss_space
from pipeline.aggregate.named_series import LOSSES, PATTERNS, named_series
from pipeline.aggregate.sequence_intervals import scan_losses
from pipeline.aggregate.step_share import step_shares
from pipeline.aggregate.vestigial import vestigial
from pipeline.errors import InputError
from pipeline.query.run import open_run
from pipeline.store.store_names import store_names

_CORNER = "corner in loss space"


def together_answers(stores: Sequence[str], *, nulls: int = 200) -> dict[str, Any]:
    """Return what the transitions of some stores have to do with each other, as JSON values.

    nulls: null series of each kind, against which the shares of steps are judged.
    Keys: `runs`, by name, with `coincidence` (pairs of named series), `steps` (shares of series
    with a step), and `vestigial` (series that rose and fell); `induction_share`, over the runs.
    Undefined numbers are None. Raises InputError where there is no store.
    """
    trees = {name: open_run(store, chunks="stored") for name, store in store_names(stores).items()}
    scores = {
        name: tree["head_scores"].to_dataset()
        for name, tree in trees.items()
        if "head_scores" in tree.children
    }
    return {
        "runs": {
            name: {
                "coincidence": _coincidence(tree),
                "steps": _steps(tree, nulls),
                "vestigial": _vestigial(tree),
            }
            for name, tree in trees.items()
        },
        "induction_share": _induction(scores),
    }


def _coincidence(run: xr.DataTree) -> dict[str, Any]:
    series, missing = named_series(run)
    series = {name: one.compute() for name, one in series.items()}
    corner = _corner(run)
    places = {_CORNER: corner} if isinstance(corner, Place) else {}
    if isinstance(corner, str):
        missing[_CORNER] = corner
    losses = run["token_loss"].to_dataset() if "token_loss" in run.children else xr.Dataset()
    scanned = {
        words: scan_losses(losses, name) for name, words in LOSSES.items() if words in series
    }
    found = coincidences(series, places, scanned)
    # A series without a transition is missing too, with its shape as the reason.
    missing |= {name: f"no transition ({shape})" for name, shape in found.attrs["left_out"].items()}
    heads = [name for name in series if name.startswith(tuple(PATTERNS.values()))]
    found = with_head_permutation(found, heads, head_midpoints(run))
    return {
        "pairs": _rows(found, "pair"),
        "places": {name: list(place) for name, place in found.attrs["places"].items()},
        "head_series": found.attrs["head_series"],
        "near": found.attrs["near"],
        "level": found.attrs["level"],
        "false_alarm_shares": found.attrs["false_alarm_shares"],
        "left_out": missing,
    }


def _corner(run: xr.DataTree) -> Place | str:
    """Return the corner of the losses' trajectory, or why there is none."""
    if "token_loss" not in run.children or "loss" not in run["token_loss"].data_vars:
        return "it is not stored"
    try:
        space = loss_space({"run": run["token_loss"].to_dataset()}, components=2)
        found = find_corner(space, "run").sel(window="whole")
    except InputError as error:
        return str(error)
    if np.isnan(float(found["step"])):
        p = max(float(found["p_walks"]), float(found["p_flipped"]))
        return f"random walks have such corners (p = {p:.2g})"
    return Place(*(float(found[name]) for name in ("step", "low", "high")))


def _steps(run: xr.DataTree, nulls: int) -> dict[str, Any]:
    found = step_shares(run, nulls=nulls)
    rows = _rows(found.drop_vars("widths").stack(row=("which", "kind")), "row")
    quantiles = {
        str(which): [_plain(q) for q in _quantiles(found["widths"].sel(which=which).values)]
        for which in found["which"].values
    }
    return {
        "shares": rows,
        "widths": quantiles,
        "verdict": found.attrs["verdict"],
        "threshold": found.attrs["threshold"],
    }


def _quantiles(widths: np.ndarray) -> list[float]:
    """Return the quartiles of what is finite, with lowest and highest value."""
    known = widths[np.isfinite(widths)]
    return np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if known.size else []


def _vestigial(run: xr.DataTree) -> dict[str, Any]:
    found = vestigial(run)
    flagged = found.isel(series=np.flatnonzero(found["vestigial"].values == 1))
    return {
        "series": int(found.sizes["series"]),
        "left_out": found.attrs["left_out"],
        "found": _rows(flagged.sortby("rise", ascending=False), "series"),
    }


def _induction(scores: dict[str, xr.Dataset]) -> dict[str, Any]:
    found = induction_shares(scores)
    each = [name for name, one in found.data_vars.items() if one.dims == ("run", "threshold")]
    # A number of each run, repeated for each threshold.
    found["heads"] = found["heads"].broadcast_like(found["count"])
    runs = found[[*each, "heads"]].stack(row=("run", "threshold"))
    over = found[[name for name, one in found.data_vars.items() if one.dims == ("threshold",)]]
    return {
        "sizes": {
            str(r): _plain(s)
            for r, s in zip(found["run"].values, found["size"].values, strict=True)
        },
        "size": found.attrs["size"],
        "shares": _rows(runs, "row"),
        "over_runs": _rows(over, "threshold"),
        "verdict": found.attrs["verdict"],
        "left_out": found.attrs["left_out"],
    }


def _rows(found: xr.Dataset, dim: str) -> list[dict[str, Any]]:
    """Return a dictionary of all numbers and labels for each place along the one dimension."""
    names = [str(name) for name in [*found.coords, *found.data_vars]]
    columns = {n: found[n].values for n in names if n != dim or n in found.indexes}
    columns = {n: values for n, values in columns.items() if len(values) and n != "row"}
    count = found.sizes[dim]
    return [{n: _plain(values[i]) for n, values in columns.items()} for i in range(count)]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: None for NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
