"""Answers that the stored losses of one run give: see docs/losses.md."""

from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.axes import explain_axes
from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.derivative import BANDWIDTH, loss_derivative
from pipeline.aggregate.in_context import in_context_scores
from pipeline.aggregate.learning_curves import learning_curves
from pipeline.aggregate.loss_space import loss_space
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError, suggestion
from pipeline.query.run import open_run
from pipeline.store import Store

_COMPONENTS = 3


def loss_answers(store: str, group: str = "token_loss") -> dict[str, Any]:
    """Return what the losses of a group say, as JSON values.

    Keys: `space` (shares of the first components, verdicts on the first one, the corner),
    `in_context` (the last score with its standard error), `derivative` (the steepest place) and
    `tokens` (learning curves). Raises InputError for a group that is not there.
    """
    run = open_run(store, chunks="stored")
    losses = [name for name, node in run.children.items() if "loss" in node.data_vars]
    if group not in losses:
        raise InputError(f"{store}: has no losses in {group!r}; {suggestion(group, losses)}")
    found = run[group].to_dataset()
    return {
        "group": group,
        "steps": int(found.sizes["step"]),
        "space": _space(store, found),
        "in_context": _in_context(found),
        "derivative": _steepest(loss_derivative(found)),
        "tokens": _tokens(learning_curves(found)),
    }


def _space(store: str, group: xr.Dataset) -> dict[str, Any]:
    space = loss_space({"run": group}, components=_COMPONENTS)
    corner = find_corner(space, "run").sel(window="whole")
    made = group.attrs["input"]
    tokens, _, _ = Store(store).load_input(made["name"], made["digest"])
    axes = explain_axes({"run": group}, space, token_features(tokens), components=_COMPONENTS)
    step = float(corner["step"])
    return {
        "shares": [round(float(share), 4) for share in space["share"].values],
        "first_is_overall_loss": dict(
            zip(axes["of"].values.tolist(), axes["verdict"].values.tolist(), strict=True)
        ),
        "corner": None if np.isnan(step) else int(step),
        "corner_candidate": int(corner["candidate"]),
        "corner_p": float(max(corner["p_walks"], corner["p_flipped"])),
        "left_out": space.attrs["left_out"],
    }


def _in_context(group: xr.Dataset) -> dict[str, Any]:
    last = in_context_scores(group).isel(step=-1, pair=0)
    return {
        "early_token": int(last["early_token"]),
        "late_token": int(last["late_token"]),
        "step": int(last["step"]),
        "score": float(last["score"]),
        "standard_error": float(last["standard_error"]),
    }


def _steepest(derivative: xr.Dataset) -> dict[str, Any]:
    one = derivative.sel(bandwidth=BANDWIDTH)
    place = one["derivative"].fillna(np.inf).argmin("step")
    at = one.isel(step=int(place))
    return {
        "axis": derivative.attrs["axis"],
        "bandwidth": BANDWIDTH,
        "step": int(at["step"]),
        "derivative": float(at["derivative"]),
        "low": float(at["low"]),
        "high": float(at["high"]),
    }


def _tokens(curves: xr.Dataset) -> dict[str, Any]:
    ages = curves["age_of_acquisition"].values
    known = ages[np.isfinite(ages)]
    learned = curves["learned"].values == 1
    forgotten = curves["forgetting_events"].values[learned] > 0
    return {
        "tokens": int(curves.attrs["tokens"]),
        "with_age": int(known.size),
        "median_age": float(np.median(known)) if known.size else None,
        "learned": int(learned.sum()),
        "forgotten_share": float(forgotten.mean()) if learned.any() else None,
    }
