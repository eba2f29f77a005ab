"""Several runs in one tree: the groups of `open_run` with one more dimension, `run`."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from pipeline.errors import InputError, suggestion
from pipeline.query.run import open_run, select
from pipeline.store.store_names import store_names

# Attributes of a group that must be equal for the numbers of two runs to be comparable.
COMPARED = ("measure", "version", "parameters", "input")
_MOMENT = re.compile(r"\s*([\w.-]+/\w+)\s*(?:-\s*(\w+)\s*)?([<>])\s*(\S+)\s*")


def open_runs(
    uris: Mapping[str, str] | Sequence[str],
    align: str = "step",
    origin: Mapping[str, float] | str | None = None,
    mixed: bool = False,
    groups: Sequence[str] | None = None,
) -> xr.DataTree:
    """Open the committed rows of several stores, lazily (with Dask), with first dimension `run`.

    uris: by name of the run; a sequence names each by the last part of its URI, or more of it.
    align: the axis that the runs share. origin: the point on that axis that becomes a run's zero: a
    number for each run, or a condition such as "modular_addition/test_loss < 0.1" or
    "head_scores/induction - induction_null > 0.3": the first saved step from which on it stays true
    of some entry (some head, say), by the rule of `pipeline.aggregate.levels`. The axis is then
    `since_origin`.
    Where a run has no checkpoint at a point of the axis, its numbers are NaN and `present` (run,
    axis) is False; layers and heads that a run lacks are NaN. A group holds the runs that have it.

    mixed: combine groups of different versions, parameters or inputs. groups: those to open; the
    others are neither read nor compared. Raises InputError for groups that differ without `mixed`,
    for a group that no run has, for unknown tokens, for a store that is given twice, and for a
    condition that a run never meets.
    """
    named = dict(uris) if isinstance(uris, Mapping) else store_names(uris)
    if align not in ("step", "tokens_seen"):
        known = suggestion(align, ("step", "tokens_seen"))
        raise InputError(f"cannot align runs on {align!r}; {known}")
    trees = {run: open_run(uri, chunks="stored") for run, uri in named.items()}
    if isinstance(origin, str):
        origin = {run: origin_of(run, tree, origin, align) for run, tree in trees.items()}
    if origin is not None and (missing := sorted(set(named) - set(origin))):
        raise InputError(f"no origin is given for the run {missing[0]!r}: give one for each run")
    datasets = {}
    for group in _chosen(trees, groups):
        found = {r: tree[group].to_dataset() for r, tree in trees.items() if group in tree.children}
        if not mixed:
            _check_comparable(group, found)
        datasets[group] = _concatenated(group, found, align, origin)
    return xr.DataTree.from_dict(datasets)


def _chosen(trees: Mapping[str, xr.DataTree], groups: Sequence[str] | None) -> list[str]:
    known = sorted({str(group) for tree in trees.values() for group in tree.children})
    for group in groups or ():
        if group not in known:
            runs = ", ".join(trees)
            raise InputError(f"there is no group {group!r} in {runs}; {suggestion(group, known)}")
    return known if groups is None else list(groups)


def origin_of(run: str, tree: xr.DataTree, happened: str, align: str) -> float:
    """Return the point on the axis from which on a variable, or a difference, meets a condition.

    happened: the condition. Raises InputError if it cannot be read, or is met at no step.
    """
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
    if not values.size:
        raise InputError(f"run {run!r}: {address} has no entries: leave it out")
    # Some entry is above the threshold where the maximum is, and below it where the minimum is.
    series = values.max(others) if sign == ">" else values.min(others)
    from pipeline.aggregate.levels import stays_past  # imports scipy

    step = stays_past(series, limit, "above" if sign == ">" else "below")
    if step is None:
        raise InputError(
            f"run {run!r}: {happened} at none of its steps, or not up to the last: leave it out"
        )
    return float(series.sel(step=step)[align])


def _check_comparable(group: str, found: Mapping[str, xr.Dataset]) -> None:
    (first, expected), *others = found.items()
    for run, dataset in others:
        for key in COMPARED:
            if dataset.attrs.get(key) != expected.attrs.get(key):
                raise InputError(
                    f"group {group!r} was not measured alike: its {key} in run {run!r} differs "
                    f"from that in {first!r}; analyse both alike, or ask for mixed runs"
                )


def _concatenated(
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
    # Outer join: the axis is the union of the runs' steps; what a run lacks is filled with NaN.
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
    """Return the positions of a run's checkpoints on the shared axis.

    Raises InputError where they are unknown or not unique.
    """
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
    # Floats, because the outer join fills missing labels with NaN.
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
