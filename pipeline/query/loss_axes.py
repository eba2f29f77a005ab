"""Answers about the components of losses and of kept logits: shares, axes, corners."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.axes import explain_axes
from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.in_context import loss_by_position
from pipeline.aggregate.logit_space import logit_space
from pipeline.errors import InputError

COMPONENTS = 3
Answer = dict[str, Any]
Induction = Mapping[str, Any] | None  # a transition, as of `loss_changes`


def space_answers(
    losses: xr.Dataset,
    loss_space: Callable[[], xr.Dataset],
    features: Callable[[], xr.Dataset],
    induction: Induction,
) -> Answer:
    """Return the answers `space`, `axes` and `corner` of one run's losses.

    loss_space: returns that of the run, by the name "run", or raises InputError. features: returns
    those of the tokens, or raises InputError. induction: the transition with which the corner is
    compared, None where there is none.
    """
    try:
        space = loss_space()
    except InputError as error:
        return {key: {"unknown": str(error)} for key in ("space", "axes", "corner")}
    return {
        "space": shares_of(space),
        "axes": answered(lambda: _axes(losses, space, features())),
        "corner": answered(lambda: corner_answer(space, "run", induction)),
    }


def shares_of(space: xr.Dataset) -> Answer:
    """Return the components' shares of the variance, and what the space was made from."""
    return {
        "shares": [round(float(share), 4) for share in space["share"].values],
        "tokens": int(space.attrs["tokens"]),
        "left_out": space.attrs["left_out"],
    }


def _axes(losses: xr.Dataset, space: xr.Dataset, features: xr.Dataset) -> Answer:
    """Return verdicts on the first component, and the shares of each that features explain."""
    found = explain_axes({"run": losses}, space, features, components=COMPONENTS)
    verdicts = dict(zip(found["of"].values.tolist(), found["verdict"].values.tolist(), strict=True))
    return {
        "first_is_overall_loss": verdicts,
        "threshold": found.attrs["threshold"],
        "mean_loss_share": float(found["mean_loss_share"]),
        "components": [
            {"component": int(one)} | {of: _explained(found, of, int(one)) for of in verdicts}
            for one in found["component"].values
        ],
    }


def _explained(found: xr.Dataset, of: str, component: int) -> list[Answer]:
    """Return the features of a component by the share they explain alone, the largest first."""
    at = found.sel(of=of, component=component)
    rows = []
    for feature in at["feature"].values:
        one = at.sel(feature=feature)
        row = {"feature": str(feature), "share": float(one["alone"])}
        row |= {"low": float(one["alone_low"]), "high": float(one["alone_high"])}
        rows.append(row | {"p": float(one["alone_p"])})
    return sorted(rows, key=lambda row: -row["share"])


def corner_answer(space: xr.Dataset, run: str, induction: Induction) -> Answer:
    """Return a run's corner, and whether it falls together with the induction transition.

    `step` is None where random walks have such corners; `in_induction` is None then, and without
    an induction transition. `p`: share of random walks with as sharp a corner, the largest of any
    kind. `by_chance`: share of the sharpest corners of walks that lie in it.
    """
    within = None if induction is None else (induction["onset"], induction["end"])
    found = find_corner(space, run, transition=within)
    whole = found.sel(window="whole")
    step = float(whole["step"])
    known = within is not None and np.isfinite(found["coincides"])
    return {
        "step": None if np.isnan(step) else int(step),
        "candidate": int(whole["candidate"]),
        "low": int(whole["low"]),
        "high": int(whole["high"]),
        "angle": float(whole["angle"]),
        "p": float(max(whole["p_walks"], whole["p_flipped"])),
        "in_induction": bool(found["coincides"]) if known else None,
        "by_chance": None if within is None else float(found["coincides_by_chance"]),
    }


def logit_answers(run: xr.DataTree, losses: xr.Dataset, induction: Induction) -> Answer | None:
    """Return components and corner of the first group that keeps logits; None where none does."""
    for name, node in run.children.items():
        logits = node.to_dataset().get("logits")
        if logits is not None and "step" in logits.dims:
            return {"variable": f"{name}/logits"} | answered(
                lambda logits=logits: _logit_answer(logits, losses, induction)
            )
    return None


def _logit_answer(logits: xr.DataArray, losses: xr.Dataset, induction: Induction) -> Answer:
    mean = losses["mean"] if "mean" in losses else loss_by_position(losses)["mean"].mean("position")
    space = logit_space(logits, mean, COMPONENTS)
    followed = space["mean_loss_share"].values
    return {
        "shares": [round(float(share), 4) for share in space["share"].values],
        "mean_loss_share": [None if np.isnan(one) else round(float(one), 4) for one in followed],
        "corner": answered(lambda: corner_answer(space, "run", induction)),
        "left_out": space.attrs["left_out"],
    }


def answered(question: Callable[[], Answer]) -> Answer:
    """Return an answer, or why there is none: too few checkpoints, or unknown tokens."""
    try:
        return question()
    except InputError as error:
        return {"unknown": str(error)}


def without_nan(value: Any) -> Any:
    """Return a JSON value with None in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
