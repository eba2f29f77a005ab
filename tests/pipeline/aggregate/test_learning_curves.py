"""Learning curves of planted tokens, forgetting by hand, and their means by kind of token."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate import blocks
from pipeline.aggregate.learning_curves import learning_curves
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group, sigmoid

STEPS = np.unique(np.concatenate([[0], np.geomspace(1, 10_000, 60).round()])).astype(int)
X = np.log10(np.maximum(STEPS, 0.5))
RNG = np.random.default_rng(4)


def falling(midpoints: np.ndarray, amplitude: float = 3.0, noise: float = 0.2) -> np.ndarray:
    """Return losses [step, sequence, position] that fall around these log10 steps."""
    curves = 6 - amplitude * sigmoid(X[:, None, None], midpoints, 0.4)
    return (curves + noise * RNG.standard_normal(curves.shape)).astype(np.float32)


def test_ages_are_the_planted_midpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_READ", 500)
    midpoints = RNG.uniform(0.5, 3.3, (20, 10))
    losses = falling(midpoints)
    found = learning_curves(as_group(losses, STEPS))
    error = np.log10(found["age_of_acquisition"].values) - midpoints
    assert (np.abs(error) < 0.05 * (X[-1] - X[0])).mean() > 0.97
    np.testing.assert_allclose(np.median(found["fall"]), 3.0, atol=0.1)
    assert (found["r_squared"] > 0.9).all()
    assert (found.attrs["without_age"], found.attrs["rising"]) == (0, 0)
    chunked = as_group(losses, STEPS).chunk({"step": 30, "sequence": 7})
    xr.testing.assert_allclose(learning_curves(chunked), found)


def test_a_curve_has_the_r_squared_of_its_best_logistic_function() -> None:
    losses = falling(np.array([[1.5]]), noise=0.5)
    found = learning_curves(as_group(losses, STEPS, early_late=(1, 2)))
    y, best = losses[:, 0, 0].astype(float), 0.0
    for midpoint in np.linspace(X[0], X[-1], 81):
        for width in np.geomspace(0.05, 3.0, 10):
            shape = sigmoid(X, midpoint, width)
            r = np.corrcoef(shape, y)[0, 1]
            if r < 0 and r**2 > best:
                best, at = r**2, midpoint
    assert float(found["r_squared"][0, 0]) == pytest.approx(best, rel=1e-4)
    assert float(found["age_of_acquisition"][0, 0]) == pytest.approx(10**at)


def test_curves_that_do_not_fall_have_no_age() -> None:
    noise = 5 + 0.5 * RNG.standard_normal((len(STEPS), 10, 10))
    small = falling(np.full((10, 10), 2.0), amplitude=0.4, noise=0.01)
    rising = 9 - falling(np.full((10, 10), 2.0))
    for losses, risen in ((noise, 0), (small, 0), (rising, 100)):
        found = learning_curves(as_group(losses.astype(np.float32), STEPS))
        assert np.isnan(found["age_of_acquisition"]).all()
        assert (found.attrs["without_age"], found.attrs["rising"]) == (100, risen)


def test_late_means_and_deviations_are_over_the_last_quarter_of_steps() -> None:
    losses = falling(np.full((3, 4), 2.0))
    found = learning_curves(as_group(losses, STEPS, early_late=(1, 2)))
    late = losses[STEPS >= 7500].astype(float)
    assert found.attrs["late_checkpoints"] == len(late) == 2
    np.testing.assert_allclose(found["final_surprisal"], late.mean(axis=0))
    assert np.isnan(found["variability"]).all()  # of two
    dense = as_group(falling(np.full((3, 4), 2.0)), 10 * np.arange(len(STEPS)), early_late=(1, 2))
    late = dense["loss"].values[dense["step"].values >= 0.75 * 10 * (len(STEPS) - 1)]
    expected = late.astype(float).std(axis=0, ddof=1)
    np.testing.assert_allclose(learning_curves(dense)["variability"], expected)


@pytest.mark.parametrize(
    ("losses", "events", "learned"),
    [
        ([3, 3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 0, 1),
        ([3, 0.5, 1.0, 0.5, 1.3, 0.5, 1.0, 1.38], 0, 1),  # never above 2 ln 2 = 1.386
        ([3, 0.5, 1.39, 1.0, 3.0, 1.0, 0.8, 2.0], 1, 1),  # not learned again: 0.8 is above ln 2
        ([0.1, 3.0, 0.1, 3.0, 0.1, 3.0, 0.1, 0.1], 3, 1),
        ([3, 2, 1, 0.7, 0.7, 0.7, 3, 3], 0, 0),  # ln 2 = 0.693
    ],
)
def test_forgetting_is_counted_by_hand(losses: list[float], events: int, learned: int) -> None:
    found = learning_curves(as_group(np.array(losses, dtype=np.float32)[:, None, None]))
    assert found["forgetting_events"].item() == events
    assert found["learned"].item() == learned


def test_padding_and_checkpoints_that_are_not_finite() -> None:
    losses = falling(np.full((3, 4), 2.0))
    damaged = losses.copy()
    damaged[:, 1, 2:] = np.nan
    damaged[30, 0, 0] = np.nan
    found = learning_curves(as_group(damaged, STEPS, early_late=(1, 2)))
    assert found.attrs["left_out"] == [int(STEPS[30])]
    assert found.attrs["tokens"] == 10
    for name in found.data_vars:
        assert np.isnan(found[name].values[1, 2:]).all(), name
    kept = np.delete(np.arange(len(STEPS)), 30)
    good = learning_curves(as_group(losses[kept], STEPS[kept], early_late=(1, 2)))
    np.testing.assert_allclose(found["age_of_acquisition"][0], good["age_of_acquisition"][0])
    with pytest.raises(InputError, match="at least 8 finite checkpoints, found 5"):
        learning_curves(as_group(losses[:5], STEPS[:5]))
