"""Sweeps with planted progress measures, whose thresholds and forecasts follow by arithmetic."""

import numpy as np
import xarray as xr

STEPS = np.arange(0, 1001, 10)
LEVEL = 0.4  # of the Gini coefficient when a planted run generalises


def planted(time: int | None, level: float = LEVEL, slope: float | None = None) -> xr.Dataset:
    """Return a run that memorises at step 20 and generalises at `time`.

    Its Gini coefficient is a line through 0 that reaches `level` at `time`.
    """
    slope = level / time if slope is None else slope
    test = np.full(len(STEPS), 5.0) if time is None else np.where(time > STEPS, 5.0, 0.01)
    series = {
        "train_loss": np.where(STEPS >= 20, 1e-3, 4.0),
        "test_loss": test,
        "restricted_loss": np.full(len(STEPS), 2.0),
        "gini_embedding": slope * STEPS,
    }
    return xr.Dataset({name: ("step", v) for name, v in series.items()}, {"step": STEPS})


def sweep(times: list[int], levels: list[float] | None = None) -> dict[str, xr.Dataset]:
    """Return runs named after their times."""
    levels = levels or [LEVEL] * len(times)
    return {f"at-{t}": planted(t, level) for t, level in zip(times, levels, strict=True)}


def with_gram(run: xr.Dataset, scores: np.ndarray) -> xr.Dataset:
    """Add the Gram matrix of logits that move along one direction, by `scores`, from an offset."""
    offset, direction = np.random.default_rng(0).normal(size=(2, 50))
    logits = offset + scores[:, None] * direction
    return run.assign(logit_gram=(("step", "other_step"), logits @ logits.T)).assign_coords(
        other_step=STEPS
    )
