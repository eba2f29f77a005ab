"""The in-context score after its jump: how constant it is within a run and over runs."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from pipeline.aggregate.in_context import in_context_scores
from pipeline.aggregate.variables import check_same_tokens, variable


def scores_since(
    groups: Mapping[str, xr.Dataset],
    since: Mapping[str, float],
    tokens: tuple[int, int] | None = None,
) -> xr.Dataset:
    """Return the mean of each run's in-context score after a step, and how it varies.

    groups: `token_loss` of runs on the same tokens (InputError otherwise). since: a step of each
    run, such as the end of the score's jump; a run without one (or NaN) has NaN. `mean` and
    `deviation` are over the checkpoints from that step on, whatever their spacing; the deviation
    (n - 1) is NaN for fewer than two. `spread` is the standard deviation over runs of the means,
    NaN for fewer than two of them. To compare: `deviation` has the noise of training within a run,
    `in_context.final_scores` the standard error over sequences.
    """
    check_same_tokens(list(groups.values()))
    pairs = None if tokens is None else [tokens]
    means, deviations, counts = [], [], []
    for name, group in groups.items():
        scores = in_context_scores(group, pairs)["score"].isel(pair=0)
        after = scores.values[scores["step"].values >= since.get(name, np.nan)]
        after = after[np.isfinite(after)]
        means.append(after.mean() if after.size else np.nan)
        deviations.append(after.std(ddof=1) if after.size > 1 else np.nan)
        counts.append(after.size)
    there = np.array([one for one in means if np.isfinite(one)])
    return xr.Dataset(
        {
            "mean": variable("run", means, "nats", "Mean in-context score since the step."),
            "deviation": variable(
                "run", deviations, "nats", "Standard deviation over the checkpoints since then."
            ),
            "checkpoints": variable("run", counts, "1", "Checkpoints since then."),
            "spread": variable(
                (), there.std(ddof=1) if there.size > 1 else np.nan, "nats",
                "Standard deviation over runs of the means.",
            ),
        },
        {"run": list(groups), "since": ("run", [since.get(name, np.nan) for name in groups])},
    )  # fmt: skip
