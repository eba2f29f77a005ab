"""The components of kept logits, as the control of those of the losses."""

import numpy as np
import xarray as xr

from pipeline.aggregate.loss_space import component_space
from pipeline.aggregate.variables import variable


def logit_space(logits: xr.DataArray, mean_loss: xr.DataArray, components: int = 3) -> xr.Dataset:
    """Return the components over checkpoints of a run's logits, and how they follow its mean loss.

    logits: (step, ...); mean_loss: (step). As `loss_space.component_space`, whose corner can be
    looked for as in a loss space, with `mean_loss_share`: the squared correlation over checkpoints
    of each component's scores with the mean loss, at the steps that both have; NaN where they share
    fewer than 3 steps, or nothing varies. Losses do not change when a constant is added to all
    logits of a token, so that logits have variance that losses cannot have.
    """
    space = component_space({"run": logits}, components)
    losses = mean_loss[np.isfinite(mean_loss.values)]
    _, mine, theirs = np.intersect1d(
        space["step"].values, losses["step"].values, return_indices=True
    )
    x = space["scores"].values[mine]
    y = losses.values[theirs].astype(np.float64)
    x, y = x - x.mean(axis=0) if len(x) else x, y - y.mean() if len(y) else y
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = (y @ x) ** 2 / ((x**2).sum(axis=0) * (y @ y))
    space["mean_loss_share"] = variable(
        "component", shared if len(y) >= 3 else np.full(len(shared), np.nan), "1",
        "Squared correlation over checkpoints of the component's scores with the mean loss.",
    )  # fmt: skip
    return space
