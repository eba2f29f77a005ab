"""Answers that the stored losses of several runs on the same tokens give together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pipeline.aggregate.derivatives_by_size import compare_derivatives
from pipeline.aggregate.in_context import compare_positions, final_scores
from pipeline.aggregate.kinds_of_token import variability_over_runs
from pipeline.aggregate.learning_curves import learning_curves
from pipeline.aggregate.loss_space import loss_space
from pipeline.aggregate.score_spread import scores_since
from pipeline.aggregate.variables import input_digest
from pipeline.errors import InputError
from pipeline.query.aggregates import transitions
from pipeline.query.loss_axes import COMPONENTS, Answer, answered, shares_of, without_nan
from pipeline.query.loss_changes import loss_changes
from pipeline.query.losses import losses_in, shown_tokens
from pipeline.query.run import open_run
from pipeline.store.store_names import store_names

Groups = Mapping[str, xr.Dataset]
_SCORE = "in_context_score"
Changes = Mapping[str, Mapping[str, Any]]


def compare_losses(
    stores: Sequence[str],
    group: str = "token_loss",
    sizes: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return what the losses of several runs say together, as JSON values.

    sizes: of the models, in the order of the stores. Without them the runs are not ordered: the
    first is compared with the last. tokens: those whose losses are compared; 10, 100, … and the
    last one by default. Keys: `runs` (names), `sizes`, `changes` (see `loss_changes`), `space` (of
    all runs on one set of axes), `positions` (small less big), `in_context` (spread over runs),
    `derivative` (before and after the jump of the in-context score), `tokens` (variability over
    runs). Of what cannot be said, the value is {"unknown": reason}. Raises InputError for fewer
    than two runs, runs without the group, and runs on different inputs.
    """
    named = store_names(stores)
    runs = {name: open_run(store, chunks="stored") for name, store in named.items()}
    groups = {name: losses_in(named[name], run, group) for name, run in runs.items()}
    _check_inputs(groups)
    if sizes is not None and len(sizes) != len(groups):
        raise InputError(f"expected {len(groups)} sizes, one for each store; found {len(sizes)}")
    by_size = None if sizes is None else dict(zip(groups, map(float, sizes), strict=True))
    changes = {
        name: loss_changes(transitions(named[name]), run, group) for name, run in runs.items()
    }
    answers = {
        "group": group,
        "runs": list(groups),
        "sizes": by_size,
        "changes": changes,
        "space": answered(lambda: _space(groups)),
        "positions": answered(lambda: _positions(groups, by_size, tokens)),
        "in_context": answered(lambda: _in_context(groups, changes)),
        "derivative": answered(lambda: _derivative(groups, by_size, changes)),
        "tokens": answered(lambda: _tokens(groups)),
    }
    return without_nan(answers)


def _check_inputs(groups: Groups) -> None:
    """Raise InputError for fewer than two runs, and for runs on different inputs."""
    if len(groups) < 2:
        raise InputError(f"a comparison needs at least two runs, found {len(groups)}")
    names: dict[str | None, list[str]] = {}
    for name, group in groups.items():
        names.setdefault(input_digest(group), []).append(name)
    if len(names) > 1:
        shown = "; ".join(
            f"{', '.join(of)}: {'unknown' if digest is None else digest[:16]}"
            for digest, of in names.items()
        )
        raise InputError(
            "these runs are compared token by token, but their losses are of different inputs (by "
            f"hash: {shown}): give all analyses the same input, or ask about each store alone"
        )


def _space(groups: Groups) -> Answer:
    """Return the trajectories of all runs on the same axes, and how far apart they end."""
    space = loss_space(groups, components=sum(one.sizes["step"] for one in groups.values()))
    trajectories = {}
    for name in groups:
        mine = space.isel(checkpoint=space["run"].values == name)
        trajectories[name] = {
            "steps": mine["step"].values.tolist(),
            "scores": mine["scores"].values[:, :COMPONENTS].tolist(),
        }
    last = [np.flatnonzero(space["run"].values == name)[-1] for name in groups]
    first = [np.flatnonzero(space["run"].values == name)[0] for name in groups]
    scores = space["scores"].values  # all components, so that distances are exact
    ends = np.linalg.norm(scores[last][:, None] - scores[last][None], axis=2)
    return shares_of(space.isel(component=slice(COMPONENTS))) | {
        "trajectories": trajectories,
        "between_ends": ends.tolist(),
        "start_to_end": dict(
            zip(groups, np.linalg.norm(scores[last] - scores[first], axis=1).tolist(), strict=True)
        ),
    }


def _positions(
    groups: Groups, sizes: Mapping[str, float] | None, tokens: Sequence[int] | None
) -> Answer:
    """Return by how much more the small models lose than the big ones, at chosen tokens."""
    small, big = _ends(groups, sizes)
    common = sorted(
        set.intersection(*(set(one["step"].values.tolist()) for one in groups.values()))
    )
    if not common:
        raise InputError("the runs have no step in common at which their losses can be compared")
    pair = [_mean_at([groups[name] for name in names], common[-1]) for names in (small, big)]
    length = pair[0].sizes["position"]
    shown = shown_tokens(length) if tokens is None else tokens
    found = compare_positions(*pair, tokens=shown)
    return {
        "small": small,
        "big": big,
        "step": common[-1],
        "window": found.attrs["window"],
        "at": [
            {"token": int(token), "difference": float(value), "standard_error": float(error)}
            for token, value, error in zip(
                found["token"].values,
                found["at_token"].values,
                found["at_token_error"].values,
                strict=True,
            )
        ],
        "beyond": found.attrs["beyond"],
        "by_position": found["difference"].values.tolist(),
    }


def _ends(groups: Groups, sizes: Mapping[str, float] | None) -> tuple[list[str], list[str]]:
    """Return the smallest and the biggest models; without sizes the first and the last run."""
    names = list(groups)
    if sizes is None:
        return names[:1], names[-1:]
    ends = (min(sizes.values()), max(sizes.values()))
    if ends[0] == ends[1]:
        raise InputError("all models have the same size, so that none is bigger")
    small, big = ([name for name in names if sizes[name] == end] for end in ends)
    return small, big


def _mean_at(groups: Sequence[xr.Dataset], step: int) -> xr.Dataset:
    """Return the losses of some runs at a step, averaged over the runs."""
    losses = [one["loss"].sel(step=[step]).drop_vars(["uri", "digest"], errors="ignore").load()
              for one in groups]  # fmt: skip
    mean = sum(loss.values.astype(np.float64) for loss in losses) / len(losses)
    return xr.Dataset({"loss": (losses[0].dims, mean)}, {"step": [step]}, groups[0].attrs)


def _in_context(groups: Groups, changes: Changes) -> Answer:
    """Return the score of each run at its end and since its jump, with the spreads over runs."""
    final = final_scores(groups)
    jumps = {name: change[_SCORE] for name, change in changes.items()}
    since = {name: jump["end"] for name, jump in jumps.items() if jump is not None}
    after = scores_since(groups, since)
    runs = [
        {
            "run": name,
            "step": int(final["step"].values[i]),
            "score": float(final["score"].values[i]),
            "standard_error": float(final["standard_error"].values[i]),
            "since": since.get(name),
            "mean_since": float(after["mean"].values[i]),
            "deviation_since": float(after["deviation"].values[i]),
            "checkpoints_since": int(after["checkpoints"].values[i]),
        }
        for i, name in enumerate(groups)
    ]
    return {
        "early_token": int(final.attrs["early_token"]),
        "late_token": int(final.attrs["late_token"]),
        "runs": runs,
        "spread": float(final["spread"]),
        "equal_p": float(final["equal_p"]),
        "spread_since": float(after["spread"]),
    }


def _derivative(groups: Groups, sizes: Mapping[str, float] | None, changes: Changes) -> Answer:
    """Return the mean derivatives before the first run's jump and after the last one's."""
    for series in (_SCORE, "mean"):
        jumps = [change[series] for change in changes.values()]
        if all(jump is not None for jump in jumps):
            break
    else:
        without = [name for name, one in changes.items() if None in (one[series], one[_SCORE])]
        raise InputError(
            "there is no before and after, as neither the in-context score nor the mean loss "
            f"changes suddenly in all runs (not in {', '.join(without)})"
        )
    between = (min(one["onset"] for one in jumps), max(one["end"] for one in jumps))
    same = sizes or dict.fromkeys(groups, 1.0)
    found = compare_derivatives(groups, same, between)
    sides = found["side"].values.tolist()
    return {
        "series": series,
        "between": list(between),
        "axis": found.attrs["axis"],
        "bandwidth": found.attrs["bandwidth"],
        "runs": {
            name: {
                side: {
                    "derivative": float(found["derivative"].values[i, j]),
                    "standard_error": float(found["standard_error"].values[i, j]),
                }
                for j, side in enumerate(sides)
            }
            for i, name in enumerate(groups)
        },
        **{
            name: dict(zip(sides, found[name].values.tolist(), strict=True))
            for name in ("kendall_tau", "kendall_p", "difference", "difference_error")
        },
    }


def _tokens(groups: Groups) -> Answer:
    """Return how much the learning curves of tokens differ between runs."""
    found = variability_over_runs({name: learning_curves(one) for name, one in groups.items()})
    final, age = (found[name].values for name in ("final_surprisal", "log_age"))
    final, age = final[np.isfinite(final)], age[np.isfinite(age)]
    return {
        "tokens": found.attrs["tokens"],
        "with_ages": found.attrs["with_ages"],
        "with_two_ages": int(age.size),
        "final_surprisal": float(np.median(final)) if final.size else None,
        "log_age": float(np.median(age)) if age.size else None,
    }
