"""Principal components of a run's logits over its checkpoints, fitted to any prefix of the run.

The logits of all pairs at a checkpoint are one point. Scores on the components of all checkpoints
follow from the checkpoints' Gram matrix alone, whatever the number of logits; and since the Gram
matrix of a prefix is a block of that of the run, the components can be fitted again to every prefix
at no cost.
"""

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.linalg import eigh

from pipeline.aggregate.variables import attributes

BLOCK_BYTES = 2**26  # of float64 logits in memory at a time


def logit_gram(logits: xr.DataArray) -> xr.DataArray:
    """Return the inner products of the logits of every two checkpoints, in float64.

    logits: (step, ...), in memory or with Dask; read in blocks of `BLOCK_BYTES`. The result has the
    dimensions `step` and `other_step`, with the same labels.
    """
    data = logits.transpose("step", ...).data
    flat = data.reshape((len(data), -1))
    width = max(BLOCK_BYTES // (8 * len(flat)), 1)
    gram = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], width):
        block = np.asarray(flat[:, start : start + width], dtype=np.float64)
        gram += block @ block.T
    steps = logits["step"].values
    return xr.DataArray(
        gram,
        {"step": steps, "other_step": steps},
        ("step", "other_step"),
        attrs=attributes(
            "1", "Inner product of the logits of two checkpoints, over all pairs and residues."
        ),
    )


def component_scores(
    gram: Float[np.ndarray, "step step"], fitted: int
) -> Float[np.ndarray, " step"]:
    """Return each checkpoint's score on the first principal component of the first `fitted` ones.

    In the unit of the logits' norm, 0 at the first checkpoint and positive at the last of the
    fitted. NaN where fewer than two checkpoints are given, or where they do not differ.

    With x_i the logits and m their mean over the fitted checkpoints, (x_i - m) (x_j - m) is the
    Gram matrix centred by its means over the fitted; its block's first eigenvector u, of
    eigenvalue l, gives the component sum_j u_j (x_j - m) / sqrt(l).
    """
    block = gram[:, :fitted]
    means = block.mean(axis=1)
    centred = block - means[:, None] - means[:fitted] + means[:fitted].mean()
    # The largest alone: all others would cost several times as much.
    values, vectors = eigh(centred[:fitted], subset_by_index=(fitted - 1, fitted - 1))
    # Differences below the rounding of the products are none.
    if fitted < 2 or values[-1] <= 1e-12 * max(np.trace(block[:fitted]), 1e-300):
        return np.full(len(gram), np.nan)
    scores = centred @ vectors[:, -1] / np.sqrt(values[-1])
    scores = scores - scores[0]
    return scores if scores[fitted - 1] >= 0 else -scores
