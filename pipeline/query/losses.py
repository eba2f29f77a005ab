"""Answers that the stored losses of one run give: see docs/losses.md."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.derivative import BANDWIDTH
from pipeline.aggregate.in_context import in_context_scores, loss_by_position
from pipeline.aggregate.kinds_of_token import by_kind_of_token
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError, suggestion
from pipeline.query import aggregates
from pipeline.query.loss_axes import (
    COMPONENTS,
    Answer,
    answered,
    logit_answers,
    space_answers,
    without_nan,
)
from pipeline.query.loss_changes import loss_changes, loss_shapes
from pipeline.query.run import open_run
from pipeline.store import Store


def loss_answers(
    store: str, group: str = "token_loss", tokens: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return what the losses of a group say, as JSON values.

    tokens: those whose loss is shown; 10, 100, … and the last one by default. Keys: `changes` and
    `shapes` (see `loss_changes`), `space` (components), `axes` (what explains them, and the
    verdicts on the first one), `corner`, `logits` (the same of kept logits; None where none are
    kept), `in_context`, `positions`, `derivative`, `tokens` (learning curves). Of what cannot be
    said, the value is {"unknown": reason}. Raises InputError for a group that is not there.
    """
    run = open_run(store, chunks="stored")
    losses = losses_in(store, run, group)
    table = aggregates.transitions(store)
    changes = loss_changes(table, run, group)

    def features() -> xr.Dataset:
        made = losses.attrs.get("input") or {}
        if not made:
            raise InputError(f"{store}: does not say on which input {group!r} was computed")
        return token_features(Store(store).load_input(made["name"], made["digest"])[0])

    def curves() -> Answer:
        found = aggregates.learning_curves(store, group)
        kinds = answered(lambda: _kinds(by_kind_of_token(found, features())))
        return _tokens(found) | {"kinds": kinds}

    answers = {
        "group": group,
        "steps": int(losses.sizes["step"]),
        "changes": changes,
        "shapes": loss_shapes(table, group),
        **space_answers(
            losses,
            lambda: aggregates.loss_space(store, group, COMPONENTS),
            features,
            changes["induction"],
        ),
        "logits": logit_answers(run, losses, changes["induction"]),
        "in_context": answered(lambda: _in_context(losses)),
        "positions": answered(lambda: _positions(losses, tokens)),
        "derivative": answered(lambda: _steepest(aggregates.loss_derivative(store, group))),
        "tokens": answered(curves),
    }
    return without_nan(answers)


def losses_in(name: str, run: xr.DataTree, group: str) -> xr.Dataset:
    """Return a group of losses of a run. Raises InputError where it is not there."""
    losses = [one for one, node in run.children.items() if "loss" in node.data_vars]
    if group not in losses:
        raise InputError(f"{name}: has no losses in {group!r}; {suggestion(group, losses)}")
    return run[group].to_dataset()


def shown_tokens(length: int) -> list[int]:
    """Return the tokens whose loss is shown by default: 10, 100, … and the last one."""
    return [*(10**i for i in range(1, len(str(length - 1)))), length]


def _in_context(losses: xr.Dataset) -> Answer:
    last = in_context_scores(losses).isel(step=-1, pair=0)
    if not np.isfinite(last["score"]):
        raise InputError(f"the score at step {int(last['step']):,} is not finite")
    return {
        "early_token": int(last["early_token"]),
        "late_token": int(last["late_token"]),
        "step": int(last["step"]),
        "score": float(last["score"]),
        "standard_error": float(last["standard_error"]),
    }


def _positions(losses: xr.Dataset, tokens: Sequence[int] | None) -> Answer:
    """Return the mean loss at tokens at the last checkpoint; the loss at t is at position t - 1."""
    last = loss_by_position(losses).isel(step=-1)
    length = last.sizes["position"]
    tokens = shown_tokens(length) if tokens is None else tokens
    at = [
        {"token": token} | {name: float(last[name][token - 1]) for name in last.data_vars}
        for token in tokens
        if token <= length
    ]
    return {
        "step": int(last["step"]),
        "at": [one for one in at if np.isfinite(one["mean"])],
        "not_finite": [one["token"] for one in at if not np.isfinite(one["mean"])],
        "beyond": [one for one in tokens if one > length],
    }


def _steepest(derivative: xr.Dataset) -> Answer:
    one = derivative.sel(bandwidth=BANDWIDTH)
    place = int(one["derivative"].fillna(np.inf).argmin("step"))
    at = one.isel(step=place)
    lowest = derivative["derivative"].min("step").values
    return {
        "axis": derivative.attrs["axis"],
        "bandwidth": BANDWIDTH,
        "bandwidth_used": float(at["bandwidth_used"]),
        "step": int(at["step"]),
        "derivative": float(at["derivative"]),
        "low": float(at["low"]),
        "high": float(at["high"]),
        "by_bandwidth": {
            f"{width:g}": float(value)
            for width, value in zip(derivative["bandwidth"].values, lowest, strict=True)
        },
    }


def _tokens(curves: xr.Dataset) -> Answer:
    ages = curves["age_of_acquisition"].values
    known = ages[np.isfinite(ages)]
    learned = curves["learned"].values == 1
    forgotten = curves["forgetting_events"].values[learned] > 0
    return {
        "tokens": int(curves.attrs["tokens"]),
        "with_age": int(known.size),
        "rising": int(curves.attrs["rising"]),
        "median_age": float(np.median(known)) if known.size else None,
        "learned": int(learned.sum()),
        "forgotten_share": float(forgotten.mean()) if learned.any() else None,
    }


def _kinds(found: xr.Dataset) -> Answer:
    names = ("final_surprisal", "variability", "age_of_acquisition", "with_age", "forgotten")
    answer: Answer = {}
    for dim in ("repetition", "frequency_bin"):
        answer[dim] = []
        for place, label in enumerate(found[dim].values):
            at = found.isel({dim: place})
            row: Answer = {"kind": label if dim == "repetition" else int(label)}
            row["tokens"] = int(at[f"final_surprisal_tokens_by_{dim}"])
            row["learned_tokens"] = int(at[f"forgotten_tokens_by_{dim}"])
            if dim == "frequency_bin":
                row["share_of_corpus"] = float(np.exp(at["log_frequency"]))
            values = {name: float(at[f"{name}_by_{dim}"]) for name in names}
            answer[dim].append(row | values)
    return answer
