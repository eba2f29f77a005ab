"""Several runs side by side: the groups of `open_run` with one more dimension, `run`."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from pipeline.aggregate.crossings import first_crossing
from pipeline.errors import InputError, suggestion
from pipeline.query.run import open_run, select
from pipeline.store.objects import store_name

# What makes the numbers of two runs comparable: attributes of a group.
_SAME = ("measure", "version", "parameters", "input")
_MOMENT = re.compile(r"\s*([\w.-]+/\w+)\s*(?:-\s*(\w+)\s*)?([<>])\s*(\S+)\s*")


def open_runs(
    uris: Mapping[str, str] | Sequence[str],
    align: Literal["step", "tokens_seen"] = "step",
    origin: Mapping[str, float] | str | None = None,
    mixed: bool = False,
) -> xr.DataTree:
    """The committed rows of several stores, lazily (with Dask), with the first dimension `run`.

    uris: by name of the run; a sequence names each by the last part of its URI.
    align: the axis that the runs share. origin: the moment on that axis that becomes a run's zero:
    its place for each run, or what happened then, such as "modular_addition/test_loss < 0.1" or
    "head_scores/induction - induction_null > 0.3": the first saved step from which on that holds of
    some entry (some head, say) at every saved step. The axis is then `since_origin`.
    Where a run has no checkpoint at a place of another, its numbers are NaN and `present` (run,
    axis) is False; where it has no such layer or head, NaN. A group is of the runs that have it.

    mixed: put side by side what was measured by another version, with other parameters or on
    another input; without it such groups raise InputError. So do unknown tokens and two runs of
    one name.
    """
    named = dict(uris) if isinstance(uris, Mapping) else _by_name(uris)
    if align not in ("step", "tokens_seen"):
        known = suggestion(align, ("step", "tokens_seen"))
        raise InputError(f"cannot align runs on {align!r}; {known}")
    trees = {run: open_run(uri, chunks="stored") for run, uri in named.items()}
    if isinstance(origin, str):
        origin = {run: _moment(run, tree, origin, align) for run, tree in trees.items()}
    if origin is not None and (missing := sorted(set(named) - set(origin))):
        raise InputError(f"no origin is given for the run {missing[0]!r}: give one for each run")
    groups = sorted({str(group) for tree in trees.values() for group in tree.children})
    datasets = {}
    for group in groups:
        found = {r: tree[group].to_dataset() for r, tree in trees.items() if group in tree.children}
        if not mixed:
            _check_comparable(group, found)
        datasets[group] = _beside(group, found, align, origin)
    return xr.DataTree.from_dict(datasets)


def _by_name(uris: Sequence[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for uri in uris:
        name = store_name(uri)
        if name in named:
            raise InputError(
                f"{named[name]} and {uri} are both called {name!r}: give each run a name"
            )
        named[name] = uri
    return named


def _moment(run: str, tree: xr.DataTree, happened: str, align: str) -> float:
    """Return the first place from which on a variable, or a difference, stays past a threshold."""
    parts = _MOMENT.fullmatch(happened)
    try:
        address, less, sign, threshold = parts.groups() if parts else ("", None, "", "")
        limit = float(threshold)
    except ValueError:
        raise InputError(
            f"origin {happened!r}: expected GROUP/VARIABLE > NUMBER (or <), or with another "
            "variable of the group subtracted, as in head_scores/induction - induction_null > 0.3"
        ) from None
    values = select(tree, address)
    if less is not None:
        values = values - select(tree, f"{address.partition('/')[0]}/{less}")
    others = [dim for dim in values.dims if dim != "step"]
    series = values.max(others) if sign == ">" else values.min(others)
    step = first_crossing(series, limit, "above" if sign == ">" else "below", stays=True)
    if step is None:
        raise InputError(
            f"run {run!r}: {happened} at none of its steps, or not up to the last: leave it out"
        )
    return float(series.sel(step=step)[align])


def _check_comparable(group: str, found: Mapping[str, xr.Dataset]) -> None:
    (first, expected), *others = found.items()
    for run, dataset in others:
        for key in _SAME:
            if dataset.attrs.get(key) != expected.attrs.get(key):
                raise InputError(
                    f"group {group!r} was not measured alike: its {key} in run {run!r} differs "
                    f"from that in {first!r}; analyse both alike, or ask for mixed runs"
                )


def _beside(
    group: str,
    found: Mapping[str, xr.Dataset],
    align: str,
    origin: Mapping[str, float] | None,
) -> xr.Dataset:
    axis = align if origin is None else "since_origin"
    aligned = []
    for run, dataset in found.items():
        places = _places(group, run, dataset, align)
        aligned.append(_on_axis(dataset, align, axis, places - (origin[run] if origin else 0)))
    side_by_side = xr.concat(
        aligned,
        dim=xr.Variable("run", np.array(list(found), dtype=object)),
        join="outer",
        coords=[name for name in ("step", "tokens_seen") if name != axis],
        compat="override",
        data_vars="all",
        combine_attrs="drop_conflicts",
    )
    present = side_by_side["present"].fillna(False).astype(bool)
    return side_by_side.drop_vars("present").assign_coords(present=present)


def _places(group: str, run: str, dataset: xr.Dataset, align: str) -> np.ndarray:
    """Where the run's checkpoints are on the axis that runs share."""
    places = dataset[align].values
    if np.isnan(places.astype(float)).any():
        raise InputError(
            f"run {run!r}: the tokens seen are not known at every step of group {group!r}: give "
            "`tokens_per_step` in its analysis, or align the runs on step"
        )
    if len(set(places.tolist())) != len(places):
        raise InputError(f"run {run!r}: two steps of group {group!r} have seen as many tokens")
    return places


def _on_axis(dataset: xr.Dataset, align: str, axis: str, places: np.ndarray) -> xr.Dataset:
    labels = {name: dataset[name].astype(float).variable for name in ("step", "tokens_seen")}
    bare = dataset.drop_vars(["uri", "digest", *labels])
    moved = bare if axis == "step" else bare.rename_dims(step=axis)
    moved = moved.assign_coords(
        {n: (axis, v.data, v.attrs) for n, v in labels.items() if n != axis}
    )
    attributes = dict(labels[align].attrs)
    if axis != align:
        attributes["long_name"] += " since the origin"
    present = xr.Variable(axis, np.ones(len(places)))
    return moved.assign_coords({axis: (axis, places, attributes)}).assign(present=present)
