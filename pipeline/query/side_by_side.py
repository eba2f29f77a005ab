"""The transitions of several stores on one axis: steps, tokens, or steps since an origin."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.aggregate.side_by_side import ALL, side_by_side
from pipeline.errors import InputError, suggestion
from pipeline.query.collection import COMPARED, origin_of
from pipeline.query.run import open_run
from pipeline.query.sweeps import settings_that_differ
from pipeline.query.transitions import stored_transitions
from pipeline.store.store_names import store_names

Axis = Literal["steps", "tokens", "origin"]


def events_of_runs(
    stores: Sequence[str],
    axis: str = "steps",
    origin: Mapping[str, float] | str | None = None,
) -> xr.Dataset:
    """Return the events of some stores on one axis, as `side_by_side` does.

    axis: "steps", "tokens", or "origin" for steps since an origin. origin: its step in each run, or
    a condition as in `open_runs`. The spread is over the runs of a set that differ by seed only,
    where their training's settings are known; `attrs["spread"]` says over which. Raises InputError
    for unknown tokens, for an origin that is missing or never met, and where there is no store.
    """
    if axis not in ("steps", "tokens", "origin"):
        raise InputError(f"no axis {axis!r}; {suggestion(axis, ('steps', 'tokens', 'origin'))}")
    if (axis == "origin") != (origin is not None):
        raise InputError("an origin belongs to the axis `origin`, and the other way round")
    opened = {name: open_run(store) for name, store in store_names(stores).items()}
    tokens = _tokens(opened) if axis == "tokens" else None
    origins = None if origin is None else _origins(opened, origin)
    sets, spread = sets_of(opened)
    made = side_by_side(stored_transitions(stores), tokens, origins, sets)
    if isinstance(origin, str):
        made.attrs["origin"] = origin
    return made.assign_attrs(spread=spread + _computed_differently(opened))


def _computed_differently(opened: Mapping[str, xr.DataTree]) -> str:
    """Return a sentence on the groups that were not computed alike in all runs; "" for none."""
    found = []
    for group in sorted({str(name) for run in opened.values() for name in run.children}):
        attrs = [run[group].attrs for run in opened.values() if group in run.children]
        keys = [key for key in COMPARED if any(a.get(key) != attrs[0].get(key) for a in attrs)]
        if keys:
            found.append(f"{group} ({', '.join(keys)})")
    return f" Not computed alike in all runs: {', '.join(found)}." if found else ""


def event_table(made: xr.Dataset) -> pd.DataFrame:
    """Return a row for each event and run that has it, with the place on the axis."""
    each = [name for name in made.data_vars if "run" in made[name].dims]
    table = made[each].to_dataframe().reset_index()
    labels = ["group", "variable", "layer", "change", "run", "set_of"]
    columns = labels + [str(name) for name in each if name != "shape"]
    return table.loc[table["shape"] == "sudden", columns].reset_index(drop=True)


def spread_table(made: xr.Dataset) -> pd.DataFrame:
    """Return a row for each event and set of runs in which a run has it, the most common first."""
    over = [name for name in made.data_vars if "set" in made[name].dims]
    table = made[over].to_dataframe().reset_index()
    labels = ["group", "variable", "layer", "change", "set"]
    table = table.loc[table["having"] > 0, labels + [str(name) for name in over]]
    order = ["having", "median"]
    return table.sort_values(by=order, ascending=[False, True], kind="stable", ignore_index=True)


def event_name(group: str, variable: str, layer: int, change: str) -> str:
    """Return the name of an event: "head_scores/induction, first head"."""
    return f"{group}/{variable}" + (f", layer {layer}" if layer >= 0 else "") + f", {change}"


def _tokens(opened: Mapping[str, xr.DataTree]) -> dict[str, xr.DataArray]:
    """Return the tokens seen at each step of each run. Raises InputError if not known at all."""
    found = {}
    for name, run in opened.items():
        known: dict[int, float] = {}
        groups = [node.to_dataset() for node in run.children.values()]
        for group in groups:
            known |= dict(_known_tokens(group))
        lacking = {int(step) for group in groups for step in group["step"].values} - {*known}
        if lacking or not known:
            raise InputError(
                f"run {name!r}: the tokens seen are not known at every step: give "
                "`tokens_per_step` in its analysis, or compare the runs on steps"
            )
        steps = sorted(known)
        found[name] = xr.DataArray([known[s] for s in steps], {"step": steps}, ["step"])
    return found


def _known_tokens(group: xr.Dataset) -> Iterator[tuple[int, float]]:
    for step, seen in zip(group["step"].values, group["tokens_seen"].values, strict=True):
        if np.isfinite(seen):
            yield int(step), float(seen)


def _origins(
    opened: Mapping[str, xr.DataTree], origin: Mapping[str, float] | str
) -> dict[str, float]:
    if isinstance(origin, str):
        return {name: origin_of(name, run, origin, "step") for name, run in opened.items()}
    if missing := sorted(set(opened) - set(origin)):
        raise InputError(f"no origin is given for the run {missing[0]!r}: give one for each run")
    return {name: float(origin[name]) for name in opened}


def sets_of(opened: Mapping[str, xr.DataTree]) -> tuple[dict[str, str], str]:
    """Return the set of each run, and a sentence on what the runs of a set have in common."""
    everything = dict.fromkeys(opened, ALL)
    settings = settings_that_differ(list(opened.values()))
    if settings is None:
        return everything, (
            "The spread is over all runs given: the settings of their training are not known."
        )
    others = [{k: v for k, v in one.items() if not k.endswith("seed")} for one in settings]
    labels = [", ".join(f"{key} {value}" for key, value in one.items()) or ALL for one in others]
    if set(labels) == {ALL}:
        return everything, "The spread is over all runs given, which differ by seed only."
    if len(set(labels)) == len(labels):
        return everything, (
            "The spread is over all runs given, of which no two differ by seed only."
        )
    return dict(zip(opened, labels, strict=True)), (
        "The spread is over runs that differ by seed only."
    )
