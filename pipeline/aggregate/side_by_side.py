"""The transitions of several runs as events on one axis, with their spread over runs.

Heads of two runs with the same index are not the same head. Events of heads are therefore matched
by role: the first head of a pattern, and the largest rise and fall of any head.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Shaped

from pipeline.aggregate.variables import variable
from pipeline.measures.head_patterns import NULLS, THRESHOLD

RULE = (
    "An event is the largest rise, or the largest fall, of a series. Heads are matched by role: "
    "the first head of a pattern is the one with the earliest midpoint of those that rise, and "
    "then stay at least {threshold:g} above their null (median up to the next change); otherwise "
    "the largest change of any head counts."
)
ALL = "all runs"
_EACH, _SPREAD = ("event", "run"), ("event", "set")
# Dimensions, unit ("" for that of the axis) and definition of each variable.
COLUMNS: dict[str, tuple[tuple[str, str], str, str]] = {
    "shape": (_EACH, "1", "Sudden, not sudden, cannot tell or not stored."),
    "layer_of": (_EACH, "1", "Layer of the head that changes; -1 without."),
    "head_of": (_EACH, "1", "Head that changes; -1 without."),
    "midpoint": (_EACH, "steps", "Step at which half of the change is done."),
    "amplitude": (_EACH, "unit of the series", "Size of the change."),
    "place": (_EACH, "", "Midpoint on the axis."),
    "place_low": (_EACH, "", "Lower end of the midpoint's 90% interval on the axis."),
    "place_high": (_EACH, "", "Upper end of the midpoint's 90% interval on the axis."),
    "decades": (_EACH, "decades", "log10 of the midpoint, or of midpoint over origin."),
    "interval": (_EACH, "decades", "Width of the midpoint's 90% interval."),
    "stored": (_SPREAD, "1", "Runs that store the series."),
    "having": (_SPREAD, "1", "Runs that have the event."),
    "median": (_SPREAD, "", "Median place, of the runs that have the event."),
    "first": (_SPREAD, "", "Earliest place."),
    "last": (_SPREAD, "", "Latest place."),
    "lag": (_SPREAD, "decades", "Median of decades: with an origin, the lag behind it."),
    "deviation": (
        _SPREAD, "decades", "Standard deviation of decades over runs; NaN for fewer than two.",
    ),
    "uncertainty": (
        _SPREAD, "decades",
        "Median width of the 90% interval within a run, beside which the deviation is read.",
    ),
}  # fmt: skip
Table = Any  # a DataFrame: its types are too wide to be checked
_LABELS = ("group", "variable", "layer", "change")


def side_by_side(
    found: xr.Dataset,
    tokens: Mapping[str, xr.DataArray] | None = None,
    origins: Mapping[str, float] | None = None,
    sets: Mapping[str, str] | None = None,
    threshold: float = THRESHOLD,
) -> xr.Dataset:
    """Return the events of several runs on one axis (dims: event, run, set).

    found: the transitions of all runs, with the coordinate `run` along "series" (see
    `pipeline.query.transitions.stored_transitions`). tokens: seen at each step (dims: step), by
    run; the axis is then tokens, else steps. origins: by run, the point on the axis that becomes 0.
    sets: the set of runs that each belongs to, over which the spread is computed; None for one set.
    A run that has no series is known from it, and has no events.
    threshold: above the null, from which on a head has a pattern.

    Coordinates along event: group, variable, layer (-1 without, and for heads), change ("first
    head", "rise" or "fall"). `RULE` says which change of a series is meant. `COLUMNS` describes the
    variables. Undefined is NaN.
    """
    runs = list(dict.fromkeys([*(str(run) for run in found["run"].values), *(sets or ())]))
    sets = sets or dict.fromkeys(runs, ALL)
    table = pd.DataFrame(_events(found, threshold), columns=[*_LABELS, "run", *_ABSENT])
    labels = sorted(set(table[list(_LABELS)].itertuples(index=False, name=None)))
    of_event = _by_event_and_run(table, labels, runs)
    at = {name: _on_axis(of_event.pop(name), runs, tokens) for name in ("low", "high")}
    at["middle"] = _on_axis(of_event["midpoint"], runs, tokens)
    zero = np.array([origins[run] if origins else 0.0 for run in runs])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {name: np.log10(values) for name, values in at.items()}
        decades = logs["middle"] - (np.log10(zero) if origins else 0)
    each = of_event | {
        "place": at["middle"] - zero,
        "place_low": at["low"] - zero,
        "place_high": at["high"] - zero,
        "decades": np.where(np.isfinite(decades), decades, np.nan),
        "interval": logs["high"] - logs["low"],
    }
    names = list(dict.fromkeys(sets[run] for run in runs))
    spread = _spread(each, np.array([sets[run] for run in runs]), names)
    axis = ("tokens" if tokens else "steps") + (" since origin" if origins else "")
    made = {
        name: variable(dims, (each | spread)[name], units or axis, definition)
        for name, (dims, units, definition) in COLUMNS.items()
    }
    coordinates = {"run": runs, "set": names, "set_of": ("run", [sets[run] for run in runs])}
    about = {
        "axis": axis,
        "rule": RULE.format(threshold=threshold),
        "left_out": found.attrs.get("left_out", []),
    }
    return xr.Dataset(made, _along_events(labels) | coordinates, about)


def _by_event_and_run(
    table: Table, labels: list[tuple[Any, ...]], runs: list[str]
) -> dict[str, np.ndarray]:
    """Return each column of a table of events as an array [event, run], `_ABSENT` without one."""
    rows = table.set_index([*_LABELS, "run"]).to_dict("index")
    return {
        name: np.array(
            [[rows.get((*one, run), _ABSENT)[name] for run in runs] for one in labels],
            dtype=None if labels else type(_ABSENT[name]),
        ).reshape(len(labels), len(runs))
        for name in _ABSENT
    }


def _along_events(labels: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the labels of events as coordinates."""
    return {
        name: ("event", np.array([label[i] for label in labels], dtype=_KINDS.get(name, object)))
        for i, name in enumerate(_LABELS)
    }


_KINDS = {"layer": np.int64}
_ABSENT: dict[str, object] = {
    "shape": "not stored", "layer_of": -1, "head_of": -1, "midpoint": np.nan, "low": np.nan,
    "high": np.nan, "amplitude": np.nan,
}  # fmt: skip


def forms(table: Table, threshold: float = THRESHOLD) -> Table:
    """Return which transitions are a head forming: it rises, and stays above its null.

    table: rows with `amplitude` and `excess_after`, as `run_transitions` has them.
    """
    return (table["amplitude"] > 0) & (table["excess_after"] >= threshold)


def _events(found: xr.Dataset, threshold: float) -> Iterator[dict[str, object]]:
    """Yield a row for each run and event."""
    table: Table = found.to_dataframe().reset_index()
    table["alike"] = table["layer"].where(table["head"] < 0, -1)
    for (run, group, name, layer), rows in table.groupby(["run", "group", "variable", "alike"]):
        for change, chosen in _changes(rows, str(name), threshold):
            labels = dict(zip(_LABELS, (group, name, int(layer), change), strict=True))
            yield {**labels, "run": run, **chosen}


def _changes(
    rows: Table, variable: str, threshold: float
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the events of one series, or of one score of all heads, each with its numbers."""
    real = rows.loc[rows["midpoint"].notna()]
    doubtful = bool((rows["shape"] == "cannot tell").any())
    rises, falls = real.loc[real["amplitude"] > 0], real.loc[real["amplitude"] < 0]
    yield "rise", _chosen(rises.sort_values(by="amplitude", ascending=False), doubtful)
    yield "fall", _chosen(falls.sort_values(by="amplitude"), doubtful)
    if variable in NULLS and (rows["head"] >= 0).all():
        # Without a stored null, nobody knows whether a head that rises has the pattern.
        unknown = bool(rises["excess_after"].isna().any())
        formed = real.loc[forms(real, threshold)]
        yield "first head", _chosen(formed.sort_values(by="midpoint"), doubtful or unknown)


def _chosen(rows: Table, doubtful: bool) -> dict[str, object]:
    """Return the first of some transitions, or why there is none."""
    if not len(rows):
        return _ABSENT | {"shape": "cannot tell" if doubtful else "not sudden"}
    one = rows.iloc[0]
    return {
        "shape": "sudden",
        "layer_of": int(one["layer"]),
        "head_of": int(one["head"]),
        "midpoint": float(one["midpoint"]),
        "low": float(one["midpoint_low"]),
        "high": float(one["midpoint_high"]),
        "amplitude": float(one["amplitude"]),
    }


def _on_axis(
    steps: Float[np.ndarray, "event run"],
    runs: list[str],
    tokens: Mapping[str, xr.DataArray] | None,
) -> Float[np.ndarray, "event run"]:
    """Return steps, or the tokens seen by then; NaN beyond the checkpoints."""
    if tokens is None:
        return steps
    seen = [
        np.interp(at, tokens[run]["step"].values, tokens[run].values, left=np.nan, right=np.nan)
        for at, run in zip(steps.T, runs, strict=True)
    ]
    return np.stack(seen, axis=1)


def _spread(
    each: Mapping[str, np.ndarray], sets: Shaped[np.ndarray, " run"], names: list[str]
) -> dict[str, np.ndarray]:
    """Return the variables over sets: of the runs of each."""
    over_sets = [name for name, (dims, _, _) in COLUMNS.items() if dims == _SPREAD]
    made: dict[str, list[pd.Series | np.ndarray]] = {name: [] for name in over_sets}
    for name in names:
        mine = {key: values[:, sets == name] for key, values in each.items()}
        place, decades = pd.DataFrame(mine["place"]), pd.DataFrame(mine["decades"])
        made["stored"].append((mine["shape"] != "not stored").sum(axis=1))
        made["having"].append((mine["shape"] == "sudden").sum(axis=1))
        made["median"].append(place.median(axis=1))
        made["first"].append(place.min(axis=1))
        made["last"].append(place.max(axis=1))
        made["lag"].append(decades.median(axis=1))
        made["deviation"].append(decades.std(axis=1, ddof=1))
        made["uncertainty"].append(pd.DataFrame(mine["interval"]).median(axis=1))
    return {name: np.stack(columns, axis=1) for name, columns in made.items()}
