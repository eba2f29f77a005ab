"""In-context learning: loss by position, its difference between runs, and scores over runs.

Standard errors are over sequences, which are independent; tokens within one are not. Runs on the
same tokens are compared sequence by sequence, so that what makes a sequence hard drops out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Integer
from scipy.stats import ttest_1samp
from statsmodels.stats.multivariate import test_mvmean

from pipeline.aggregate.blocks import in_order, over_sequences
from pipeline.aggregate.sequence_moments import SequenceMoments
from pipeline.aggregate.variables import check_same_tokens, variable
from pipeline.errors import InputError, suggestion

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"


def loss_by_position(group: xr.Dataset) -> xr.Dataset:
    """Return the mean loss at each step and position, with its standard error over sequences.

    group: `token_loss`, whose `loss` is over step, sequence and position. The standard error is
    the standard deviation over sequences (n - 1) over sqrt(n), NaN where fewer than two sequences
    have the position. Padding, where a loss is NaN at every step, does not count; another loss that
    is not finite makes the means that contain it NaN.
    """
    loss = in_order(group["loss"])
    total = SequenceMoments.merged(list(over_sequences(SequenceMoments.of, loss)))
    dims = ("step", "position")
    return xr.Dataset(
        {
            "mean": variable(dims, total.mean, "nats", "Mean loss over sequences."),
            "standard_error": variable(
                dims, total.standard_error, "nats", "Standard error of the mean over sequences."
            ),
        },
        {"step": loss["step"].values, "position": _positions(loss)},
        {"sequences": loss.sizes["sequence"]},
    )


def in_context_scores(
    group: xr.Dataset, tokens: Sequence[tuple[int, int]] | None = None
) -> xr.Dataset:
    """Return in-context learning scores at chosen tokens, with standard errors over sequences.

    tokens: pairs (early, late), as the measure's parameters have them by default. The score is the
    mean over sequences of the loss at the late token less the loss at the early one: more negative
    is more in-context learning. The loss at token t is that at position t - 1. Dims: step, pair
    (coordinates `early_token` and `late_token`). Raises InputError for tokens out of range.
    """
    pairs = [_own_tokens(group)] if tokens is None else list(tokens)
    loss = in_order(group["loss"].transpose("step", "sequence", "position"))
    length = loss.sizes["position"]
    for early, late in pairs:
        if not 1 <= early < late <= length:
            raise InputError(
                f"expected tokens 1 <= early < late <= {length}, found {early} and {late}"
            )
    found = [_scored(loss, early, late) for early, late in pairs]
    scores, errors = (np.stack(column, axis=1) for column in zip(*found, strict=True))
    return xr.Dataset(
        {
            "score": variable(
                ("step", "pair"), scores, "nats",
                "Mean loss at the late token minus mean loss at the early one.", _OLSSON,
            ),
            "standard_error": variable(
                ("step", "pair"), errors, "nats", "Standard error of the score over sequences."
            ),
        },
        {
            "step": loss["step"].values,
            "early_token": ("pair", [early for early, _ in pairs]),
            "late_token": ("pair", [late for _, late in pairs]),
        },
        {"sequences": loss.sizes["sequence"]},
    )  # fmt: skip


def compare_positions(
    small: xr.Dataset,
    big: xr.Dataset,
    *,
    steps: tuple[int, int] | None = None,
    tokens: Sequence[int] = (10, 100, 1000),
    window: int = 5,
) -> xr.Dataset:
    """Return by how much more a small model loses than a big one, at each position.

    small, big: groups `token_loss` of two runs on the same tokens (InputError otherwise). steps:
    one checkpoint of each, the last by default. `difference` is the mean over sequences of the
    small model's loss less the big one's; `at_token` the same, averaged over the positions within
    `window` tokens around each of `tokens`; tokens that the sequences do not reach are left out and
    named in `attrs["beyond"]`. Standard errors are over sequences, of the paired differences.
    """
    check_same_tokens([small, big])
    ends = steps or tuple(int(one["step"].values.max()) for one in (small, big))
    a, b = (_at(one, step) for one, step in zip((small, big), ends, strict=True))
    difference = a.astype(np.float64) - b
    undefined = np.isnan(a) & np.isnan(b)
    total = SequenceMoments.of(np.where(undefined, np.nan, difference)[None])
    length = difference.shape[1]
    reached = [token for token in tokens if token <= length]
    windows = [_window(difference, undefined, token, window) for token in reached]
    near, near_error = np.array(windows).reshape(-1, 2).T
    return xr.Dataset(
        {
            "difference": variable(
                "position",
                np.where(total.count > 0, total.mean[0], np.nan),
                "nats",
                "Mean loss of the small model less the big one's.",
            ),
            "standard_error": variable(
                "position",
                total.standard_error[0],
                "nats",
                "Standard error over sequences, paired.",
            ),
            "at_token": variable(
                "token", near, "nats", "Mean difference over the positions around a token."
            ),
            "at_token_error": variable(
                "token", near_error, "nats", "Standard error over sequences, paired."
            ),
        },
        {"position": _positions(small["loss"]), "token": reached},
        {
            "steps": list(ends),
            "window": window,
            "sequences": len(difference),
            "beyond": [token for token in tokens if token > length],
        },
    )


def final_scores(
    groups: Mapping[str, xr.Dataset], tokens: tuple[int, int] | None = None
) -> xr.Dataset:
    """Return the in-context score at the last checkpoint of each run, and its spread over runs.

    groups: `token_loss` of at least two runs on the same tokens (InputError otherwise). `spread` is
    the standard deviation over runs. `equal_p` is the p-value of the hypothesis that all runs have
    the same score, by Hotelling's T² of the sequences' differences from the first run; NaN where
    there are not more sequences than runs. A large p-value is no proof of constancy: `spread` and
    the standard errors say how large a difference could have been seen.
    """
    if len(groups) < 2:
        raise InputError(f"a spread needs at least two runs, found {len(groups)}")
    check_same_tokens(list(groups.values()))
    early, late = tokens or _own_tokens(next(iter(groups.values())))
    lasts = [int(group["step"].values.max()) for group in groups.values()]
    rows = []
    for group, last in zip(groups.values(), lasts, strict=True):
        length = group.sizes["position"]
        if not 1 <= early < late <= length:
            raise InputError(f"expected tokens up to {length}, found {early} and {late}")
        values = _at(group, last).astype(np.float64)
        rows.append(values[:, late - 1] - values[:, early - 1])
    scores = np.stack(rows)
    scores = scores[:, np.isfinite(scores).any(axis=0)]  # sequences that end before are padding
    return xr.Dataset(
        {
            "score": variable("run", scores.mean(axis=1), "nats", "In-context score.", _OLSSON),
            "standard_error": variable(
                "run", scores.std(axis=1, ddof=1) / np.sqrt(scores.shape[1]), "nats",
                "Standard error of the score over sequences.",
            ),
            "spread": variable(
                (), scores.mean(axis=1).std(ddof=1), "nats", "Standard deviation over runs."
            ),
            "equal_p": variable(
                (), _equal_p(scores), "1", "P-value of equal scores (Hotelling's T squared)."
            ),
        },
        {"run": list(groups), "step": ("run", lasts)},
        {"early_token": early, "late_token": late, "sequences": scores.shape[1]},
    )  # fmt: skip


def _equal_p(scores: Float[np.ndarray, "run sequence"]) -> float:
    differences = (scores[1:] - scores[0]).T
    runs = differences.shape[1]
    # Runs that are alike leave no variance to test against.
    if (
        len(differences) <= runs + 1
        or np.linalg.matrix_rank(differences - differences.mean(0)) < runs
    ):
        return np.nan
    if runs == 1:  # T squared is then the square of t
        return float(np.asarray(ttest_1samp(differences[:, 0], 0))[1])
    return float(test_mvmean(differences)[1])


def _scored(
    loss: xr.DataArray, early: int, late: int
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    pair = loss.isel(position=[early - 1, late - 1]).values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite losses: the score is NaN
        total = SequenceMoments.of(pair[:, :, 1:] - pair[:, :, :1])
    mean = np.where(total.count > 0, total.mean, np.nan)
    return mean[:, 0], total.standard_error[:, 0]


def _window(
    difference: Float[np.ndarray, "sequence position"],
    undefined: Bool[np.ndarray, "sequence position"],
    token: int,
    window: int,
) -> tuple[float, float]:
    """Return mean and standard error, over sequences, of each one's mean around a token."""
    near = slice(max(token - 1 - window, 0), token + window)
    counts = (~undefined[:, near]).sum(axis=1)
    sums = np.where(undefined[:, near], 0.0, difference[:, near]).sum(axis=1)
    means = sums[counts > 0] / counts[counts > 0]
    total = SequenceMoments.of(means[None, :, None])
    return float(total.mean[0, 0]), float(total.standard_error[0, 0])


def _at(group: xr.Dataset, step: int) -> Float[np.ndarray, "sequence position"]:
    steps = group["step"].values
    if step not in steps:
        raise InputError(
            f"there is no checkpoint at step {step}; {suggestion(str(step), map(str, steps))}"
        )
    loss = group["loss"].transpose("step", "sequence", "position")
    return loss.isel(step=int(np.flatnonzero(steps == step)[0])).values


def _own_tokens(group: xr.Dataset) -> tuple[int, int]:
    parameters = group.attrs.get("parameters") or {}
    try:
        return parameters["early_token"], parameters["late_token"]
    except KeyError:
        raise InputError("the group does not say its early and late token: give `tokens`") from None


def _positions(loss: xr.DataArray) -> Integer[np.ndarray, " position"]:
    return (
        loss["position"].values if "position" in loss.coords else np.arange(loss.sizes["position"])
    )
