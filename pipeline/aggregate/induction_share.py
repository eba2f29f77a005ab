"""The share of heads that are induction heads at the end of training, over models of several sizes.

A head counts where its prefix matching exceeds its null by a threshold, for a sweep of thresholds:
a trend over sizes that depends on one of them is none. The trend is judged by the test of Cochran
(1954) and Armitage (1955) over log10 of the size. It takes heads as independent, and the sizes as
all that differs: runs that differ in their data or their length say nothing about size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer
from statsmodels.stats.contingency_tables import Table
from statsmodels.stats.proportion import proportions_chisquare

from pipeline.aggregate.step_share import wilson
from pipeline.aggregate.variables import variable
from pipeline.measures.head_patterns import excess_of, has_pattern

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)  # above the null
LEVEL = 0.05
RISES, FALLS, UNKNOWN = "rises with size", "falls with size", "cannot tell"


def induction_shares(
    runs: Mapping[str, xr.Dataset],
    sizes: Mapping[str, float] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> xr.Dataset:
    """Return the share of induction heads of each run (dims: run, threshold), by size.

    runs: groups of head scores. sizes: a number for each run, such as its parameters; by default
    its heads. Heads whose excess at the last step is not finite do not count. Over runs, by
    threshold: `spread`, the highest share minus the lowest; `p_differ`, of a chi-squared test that
    all have the same share; `trend` and `p_trend`, the sign and the p-value of a trend with size.
    NaN where fewer than two runs, or sizes, can be compared. Attributes: verdict, a trend where at
    every threshold p_trend is at most 5% with one sign; left_out, the runs without a null.
    """
    excess = {name: excess_of(scores, "induction") for name, scores in runs.items()}
    last = {
        name: one.sortby("step").isel(step=-1).values.ravel().astype(np.float64)
        for name, one in excess.items()
        if one is not None
    }
    last = {name: values[np.isfinite(values)] for name, values in last.items()}
    heads = np.array([len(values) for values in last.values()], dtype=np.int64)
    size = np.array([sizes[n] if sizes else len(v) for n, v in last.items()], dtype=np.float64)
    order = np.argsort(size, kind="stable")
    names = [list(last)[i] for i in order]
    counts = np.array(
        [[int(has_pattern(last[n], t).sum()) for t in thresholds] for n in names], dtype=np.int64
    ).reshape(len(names), len(thresholds))
    table = _variables(counts, heads[order], size[order])
    return xr.Dataset(
        table,
        {"run": np.array(names, dtype=object), "threshold": list(thresholds)},
        {"size": "given" if sizes else "heads", "level": LEVEL,
         "verdict": _verdict(table["trend"].values, table["p_trend"].values),
         "left_out": [name for name, one in excess.items() if one is None]},
    )  # fmt: skip


def _variables(
    counts: Integer[np.ndarray, "run threshold"],
    heads: Integer[np.ndarray, " run"],
    sizes: Float[np.ndarray, " run"],
) -> dict[str, xr.Variable]:
    ends = np.array(
        [[wilson(int(k), int(n)) for k in row] for row, n in zip(counts, heads, strict=True)]
    ).reshape(*counts.shape, 2)
    with np.errstate(invalid="ignore"):
        shares = counts / heads[:, None]
    used = heads > 0
    over = np.array([_over_runs(k[used], heads[used], sizes[used]) for k in counts.T])
    spread, differ, trend, p_trend = over.reshape(-1, 4).T
    each, one = ("run", "threshold"), ("threshold",)
    about = {
        "size": (("run",), sizes, "Size of the model."),
        "heads": (("run",), heads, "Heads with a finite excess at the last step."),
        "count": (each, counts, "Heads whose excess reaches the threshold."),
        "share": (each, shares, "Count over heads."),
        "low": (each, ends[..., 0], "Lower end of the share's 95% Wilson interval."),
        "high": (each, ends[..., 1], "Upper end of the share's 95% Wilson interval."),
        "spread": (one, spread, "Highest share minus the lowest."),
        "p_differ": (one, differ, "P-value of equal shares in all runs."),
        "trend": (one, trend, "1 where shares rise with log size, -1 where they fall."),
        "p_trend": (one, p_trend, "P-value of no trend with log size."),
    }
    return {name: variable(dims, values, "1", text) for name, (dims, values, text) in about.items()}


def _over_runs(
    counts: Integer[np.ndarray, " run"],
    heads: Integer[np.ndarray, " run"],
    sizes: Float[np.ndarray, " run"],
) -> tuple[float, float, float, float]:
    """Return spread, p-value of a difference, and sign and p-value of a trend."""
    if len(counts) < 2:
        return np.nan, np.nan, np.nan, np.nan
    spread = float(np.ptp(counts / heads))
    if counts.sum() in (0, heads.sum()):
        return spread, np.nan, np.nan, np.nan  # all alike: there is nothing to test
    differ = float(proportions_chisquare(counts, heads)[1])
    if len(np.unique(sizes)) < 2:
        return spread, differ, np.nan, np.nan
    tested = Table(np.stack([heads - counts, counts], axis=1), shift_zeros=False)
    trend: Any = tested.test_ordinal_association(np.log10(sizes), np.array([0, 1]))
    return spread, differ, float(np.sign(trend.zscore)), float(trend.pvalue)


def _verdict(trend: Float[np.ndarray, " threshold"], p: Float[np.ndarray, " threshold"]) -> str:
    if not len(p) or not (p <= LEVEL).all() or len(set(trend.tolist())) > 1:
        return UNKNOWN
    return RISES if trend[0] > 0 else FALLS
