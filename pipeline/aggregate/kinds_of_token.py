"""Learning curves of tokens, summarised: by frequency and repetition, and over runs."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from pipeline.aggregate.token_features import REPETITION
from pipeline.aggregate.variables import check_same_tokens, variable
from pipeline.errors import InputError

_CHANG = "Chang et al. 2023, arXiv 2308.15419"


def by_kind_of_token(curves: xr.Dataset, features: xr.Dataset, bins: int = 5) -> xr.Dataset:
    """Return the means of learning curves by frequency and by repetition of the token.

    curves: of `learning_curves`; features: of `token_features`, of the same input. Frequencies are
    in `bins` classes of about as many tokens; `repetition` as there. For each quantity: the mean,
    its standard error over sequences (a ratio of sums, linearised), and over how many tokens. The
    mean age is geometric, of the tokens that have one; `with_age` is their share. `forgotten` is
    the share of learned tokens that were forgotten at least once.
    """
    if dict(curves.sizes) != dict(features.sizes):
        raise InputError(f"expected features of the tokens {dict(curves.sizes)}, "
                         f"found {dict(features.sizes)}")  # fmt: skip
    counted = np.isfinite(curves["final_surprisal"].values)
    if not counted.any():
        raise InputError("no token has a finite loss at the end")
    frequency = features["log_frequency"].values
    edges = np.unique(np.quantile(frequency[counted], np.linspace(0, 1, bins + 1)))
    classes = np.searchsorted(edges[1:-1], frequency, side="right")
    groups = {
        "frequency_bin": [counted & (classes == i) for i in range(max(len(edges) - 1, 1))],
        "repetition": [counted & (features["repetition"].values == i) for i in range(3)],
    }
    result = {}
    for dim, members in groups.items():
        for name, (values, units, definition) in _quantities(curves).items():
            mean, error, count = np.array([_mean(values, mine) for mine in members]).T
            mean = np.exp(mean) if name == "age_of_acquisition" else mean
            result[f"{name}_by_{dim}"] = variable(dim, mean, units, definition)
            result[f"{name}_error_by_{dim}"] = variable(
                dim, error, "1" if name == "age_of_acquisition" else units, _error_of(name)
            )
            result[f"{name}_tokens_by_{dim}"] = variable(dim, count, "1", "Tokens in the mean.")
    middles = [
        float(frequency[mine].mean()) if mine.any() else np.nan for mine in groups["frequency_bin"]
    ]
    labels = {
        "frequency_bin": np.arange(len(middles)),
        "log_frequency": ("frequency_bin", middles),
        "repetition": list(REPETITION),
    }
    return xr.Dataset(result, labels, {"frequency_edges": edges.tolist()})


def _error_of(name: str) -> str:
    of = "the log of the mean age" if name == "age_of_acquisition" else "the mean"
    return f"Standard error of {of} over sequences."


def variability_over_runs(curves: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return how much each token's learning differs between runs, such as those of other seeds.

    curves: by name of the run, of `learning_curves`, on the same tokens (InputError otherwise).
    Standard deviations (n - 1) over runs; of ages those of log10, where at least two runs have one.
    `attrs["tokens"]` counts the tokens, `attrs["with_ages"]` those of which all runs have an age.
    """
    if len(curves) < 2:
        raise InputError(f"variability over runs needs at least two, found {len(curves)}")
    check_same_tokens(list(curves.values()))
    final = np.stack([one["final_surprisal"].values for one in curves.values()])
    ages = np.log10(np.stack([one["age_of_acquisition"].values for one in curves.values()]))
    dims, first = ("sequence", "position"), next(iter(curves.values()))
    has_age = np.isfinite(ages)
    return xr.Dataset(
        {
            "final_surprisal": variable(
                dims, final.std(axis=0, ddof=1), "nats",
                "Standard deviation over runs of the final surprisal.", _CHANG,
            ),
            "log_age": variable(
                dims, _deviation(ages), "1",
                "Standard deviation over runs of log10 of the age of acquisition.",
            ),
            "runs_with_age": variable(
                dims, has_age.sum(axis=0), "1", "How many runs have an age of acquisition."
            ),
        },
        {dim: first[dim] for dim in dims if dim in first.coords},
        {
            "runs": list(curves),
            "tokens": int(np.isfinite(final).all(axis=0).sum()),
            "with_ages": int(has_age.all(axis=0).sum()),
        },
    )  # fmt: skip


def _deviation(values: Float[np.ndarray, "run ..."]) -> Float[np.ndarray, "..."]:
    """Return standard deviations over runs without NaN; NaN for fewer than two."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    several = np.where(count > 1, count, 2)
    mean = np.where(there, values, 0).sum(axis=0) / several
    off = np.where(there, values - mean, 0)
    return np.where(count > 1, np.sqrt((off**2).sum(axis=0) / (several - 1)), np.nan)


def _quantities(curves: xr.Dataset) -> dict[str, tuple[np.ndarray, str, str]]:
    """Return the quantities that are averaged, with units and definitions."""
    age = curves["age_of_acquisition"].values
    learned = curves["learned"].values > 0
    forgotten = np.where(learned, curves["forgetting_events"].values > 0, np.nan)
    return {
        "final_surprisal": (curves["final_surprisal"].values, "nats", "Mean final surprisal."),
        "variability": (curves["variability"].values, "nats", "Mean late variability."),
        "age_of_acquisition": (np.log(age), "steps", "Geometric mean of the ages there are."),
        "with_age": (np.isfinite(age).astype(float), "1", "Share of tokens that have an age."),
        "learned": (learned.astype(float), "1", "Share of tokens that were learned."),
        "forgotten": (forgotten, "1", "Share of learned tokens that were forgotten."),
    }


def _mean(
    values: Float[np.ndarray, "sequence position"], mine: Bool[np.ndarray, "sequence position"]
) -> tuple[float, float, int]:
    """Return a mean over tokens, its standard error over sequences, and the number of tokens."""
    mine = mine & np.isfinite(values)
    counts, total = mine.sum(axis=1), int(mine.sum())
    if not total:
        return np.nan, np.nan, 0
    filled = np.where(mine, values, 0.0)
    mean = float(filled.sum() / total)
    off = filled.sum(axis=1) - mean * counts
    sequences = len(values)
    error = (
        np.sqrt((off**2).sum() * sequences / (sequences - 1)) / total if sequences > 1 else np.nan
    )
    return mean, float(error), total
