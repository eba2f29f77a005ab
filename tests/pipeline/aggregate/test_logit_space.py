"""Components of kept logits, and how they follow the mean loss."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.logit_space import logit_space

STEPS = np.arange(0, 200, 10)


def logits_of(series: np.ndarray, noise: float = 0.0) -> xr.DataArray:
    """Return logits over step, pair and residue that move along one direction by a series."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((7, 5))
    values = series[:, None, None] * direction + noise * rng.standard_normal((len(series), 7, 5))
    return xr.DataArray(values, {"step": STEPS}, ("step", "pair", "residue"))


def test_scores_that_follow_the_mean_loss_are_found() -> None:
    loss = np.exp(-STEPS / 60.0)
    mean = xr.DataArray(loss, {"step": STEPS}, ("step",))
    found = logit_space(logits_of(loss, 0.05), mean)
    expected = np.corrcoef(found["scores"][:, 0], loss)[0, 1] ** 2
    assert float(found["mean_loss_share"][0]) == pytest.approx(expected) and expected > 0.9
    assert float(found["share"][0]) > 0.9
    # Another series: the components do not follow the loss.
    other = logit_space(logits_of(np.sin(STEPS / 5.0), 0.05), mean)
    assert float(other["mean_loss_share"][0]) < 0.3


def test_only_steps_that_both_have_count() -> None:
    loss = np.exp(-STEPS / 60.0)
    mean = xr.DataArray(np.append(loss[5:], 99.0), {"step": [*STEPS[5:], 10**6]}, ("step",))
    mean[3] = np.nan
    found = logit_space(logits_of(loss, 0.05), mean)
    kept = np.delete(np.arange(5, len(STEPS)), 3)
    scores = found["scores"].values[kept, 0]
    expected = np.corrcoef(scores, loss[kept])[0, 1] ** 2
    assert float(found["mean_loss_share"][0]) == pytest.approx(expected)
    assert np.isnan(logit_space(logits_of(loss), mean[:2])["mean_loss_share"]).all()
