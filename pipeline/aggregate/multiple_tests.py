"""P-values of several tests together."""

import numpy as np
from jaxtyping import Float
from statsmodels.stats.multitest import multipletests


def adjusted(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return the p-values adjusted by Benjamini and Hochberg (1995); NaN are no tests.

    Those at most 5% hold at most 5% of false ones on average, for tests that are independent or
    positively dependent, as those of pairs with a series in common are.
    """
    found = np.full(len(p_values), np.nan)
    given = np.isfinite(p_values)
    if given.any():
        found[given] = multipletests(p_values[given], method="fdr_bh")[1]
    return found
