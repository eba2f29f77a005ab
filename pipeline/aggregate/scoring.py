"""Errors of predicted steps, their medians over runs with intervals, and the verdict on them.

The error of a predicted step is a factor: predicted over true, or true over predicted, whichever is
at least 1; infinite where nothing was predicted to happen. Intervals hold 95%: of 2,000 bootstrap
samples of the runs, whose predictions are not made again.
"""

import numpy as np
from jaxtyping import Float

BETTER = "better than the baseline"
WORSE = "worse than the baseline"
NOT_BETTER = "not better than the baseline"
TOO_FEW = "too few runs to tell"

RESAMPLES = 2000
# With fewer values, the interval from the lowest to the highest holds their distribution's median
# with a probability below 0.95: 1 - 2 * 0.5 ** n.
FEWEST_JUDGED = 6
VERDICT = (
    "A prediction is better (worse) than the baseline where the 95% bootstrap interval of the "
    "median over runs of the ratio of the two errors lies below (above) 1; with fewer than "
    f"{FEWEST_JUDGED} runs none is judged."
)


def factor_of_error(
    predicted: Float[np.ndarray, "..."], true: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Return the larger of predicted / true and true / predicted; NaN where either is NaN.

    Infinite for an infinite prediction. Steps are positive.
    """
    return np.exp(np.abs(np.log(predicted / true)))


def median_interval(values: Float[np.ndarray, " run"], seed: int = 0) -> tuple[float, float, float]:
    """Return the median of the values and the 2.5 and 97.5% quantiles of its bootstrap samples.

    NaN are left out; all three are NaN where nothing else is left. Infinite values are values.
    """
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    # Quantiles that are values of the sample: between infinite ones nothing can be interpolated.
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975], method="inverted_cdf")
    return float(np.median(values)), float(low), float(high)


def verdict(ratios: Float[np.ndarray, " run"]) -> str:
    """Return the verdict (see `VERDICT`). ratios: a prediction's errors over the baseline's."""
    if np.count_nonzero(~np.isnan(ratios)) < FEWEST_JUDGED:
        return TOO_FEW
    _, low, high = median_interval(ratios)
    if high < 1:
        return BETTER
    return WORSE if low > 1 else NOT_BETTER
