"""Null series that keep a series' own noise and schedule: the same curve, or another, resampled.

Residuals are what the templates of `pipeline.aggregate.fitting` leave of a series. They are drawn
in moving blocks (Künsch 1989), so that noise that is autocorrelated stays so.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.ndimage import uniform_filter1d

from pipeline.aggregate.fitted import fit_all
from pipeline.aggregate.fitting import PARAMETERS
from pipeline.aggregate.log_axis import LogAxis, log_steps

_LOCAL, _FEWEST = 5, 10  # a local deviation is that of a fifth of the series, or of 10 checkpoints


@dataclass(frozen=True)
class Described:
    """A series without spikes, and what it consists of, at its steps.

    curve: the templates that describe it best. smooth: the best description by one smooth template
    over a line. residuals: of the curve, scaled for the parameters that it spent.
    """

    values: Float[np.ndarray, " step"]
    curve: Float[np.ndarray, " step"]
    smooth: Float[np.ndarray, " step"]
    residuals: Float[np.ndarray, " step"]


def describe(
    steps: Integer[np.ndarray, " step"], values: Float[np.ndarray, "series step"]
) -> list[Described]:
    """Return the parts of finite series over ascending steps, of which there are at least 10."""
    found = []
    for fit, series, means, _ in fit_all(steps, values):
        templates = fit.templates
        best = np.where(templates.smooth, fit.beside(()).gains, -1.0).argmax()
        smooth = fit.residuals_of((fit.term(int(best)),))
        curve = _at_steps(fit.axis, means - fit.residuals / templates.root)
        spent = min((2 + PARAMETERS * len(fit.terms)) / len(means), 0.5)
        found.append(
            Described(
                series,
                curve,
                _at_steps(fit.axis, means - smooth / templates.root),
                (series - curve) / np.sqrt(1 - spent),
            )
        )
    return found


def resampled(
    residuals: Float[np.ndarray, " step"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw step"]:
    """Return `count` series of residuals, in moving blocks of round(sqrt(n)) checkpoints.

    Divided by their local standard deviation before, and multiplied by that of their new place, so
    that noise that grows or shrinks over training still does.
    """
    n = len(residuals)
    spread = np.sqrt(uniform_filter1d(residuals**2, max(n // _LOCAL, _FEWEST), mode="nearest"))
    scaled = np.divide(residuals, spread, out=np.zeros(n), where=spread > 0)
    block = max(round(n**0.5), 1)
    starts = rng.integers(0, n - block + 1, (count, -(-n // block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(count, -1)[:, :n]
    return scaled[places] * spread


def random_walks(
    steps: Integer[np.ndarray, " step"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw step"]:
    """Return Gaussian random walks with a move of equal variance at every checkpoint."""
    return rng.standard_normal((count, len(steps))).cumsum(axis=1)


def _at_steps(axis: LogAxis, binned: Float[np.ndarray, " bin"]) -> Float[np.ndarray, " step"]:
    if len(axis.x) == len(axis.steps):
        return binned
    return np.interp(log_steps(axis.steps), axis.x, binned)
