"""Learning curves of single tokens (Chang et al. 2023): acquisition, variability, forgetting.

Millions of curves are fitted at once: a logistic function of log steps is chosen from a grid by
one product of matrices per block of tokens, in float32.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Real

from pipeline.aggregate.blocks import Block, in_order, over_tokens, padding
from pipeline.aggregate.log_axis import log_steps
from pipeline.aggregate.templates import logistic
from pipeline.aggregate.variables import variable
from pipeline.errors import InputError

_CHANG = "Chang et al. 2023, arXiv 2308.15419"
_TONEVA = "Toneva et al. 2019, arXiv 1812.05159"

VERSION = 1  # another where the same losses give other numbers
LEARNED = float(np.log(2))  # nats: the token has more than half of the probability
FORGOTTEN = float(2 * np.log(2))  # nats: it has less than a quarter
LATE = 0.75  # of the last step, from which on training is "late"
FITS = 0.5  # R² from which on a curve is described by a fall
FALLS = 0.5  # nats that a curve falls at least
_FEWEST = 8  # checkpoints
_LATE_LEAST = 3  # late checkpoints
_PLACES, _WIDTHS = 81, np.geomspace(0.05, 3.0, 10)  # of the grid; decades
_AT_ONCE = 4096  # tokens


def learning_curves(group: xr.Dataset) -> xr.Dataset:
    """Return for each token how it was learned. group: `token_loss`, or another with a `loss`.

    Dims: sequence, position. With the late checkpoints those from 75% of the last step on:

    - `final_surprisal`: mean loss over the late checkpoints.
    - `variability`: standard deviation (n - 1) of the loss over the late checkpoints; NaN for fewer
      than 3.
    - `age_of_acquisition`: step at the midpoint of the logistic function of log10 step (step 0 at
      half of the first positive one) that fits best by least squares, of those that fall: midpoints
      at 81 places over the range, 10 to 90% within 0.05 to 3 decades. NaN where it explains less
      than half of the variance (`r_squared`) or falls by less than 0.5 nats between the first and
      the last checkpoint (`fall`): such a token has no age, not an early one. `rises` is 1 where a
      rising function passes the same two tests, as curves that wander do by chance as often as
      falling ones. Departure: the paper takes the midpoint of a curve smoothed by a GAM between
      its minimum and chance.
    - `forgetting_events`: a token is learned where its loss is below ln 2 (more than half of the
      probability, so that it is the likeliest), and forgotten where it then rises above 2 ln 2
      (less than a quarter); it must be learned again to be forgotten again. Departure: Toneva et
      al. count wrong classifications, here a token in between stays what it was. Depends on how
      many checkpoints there are.
    - `learned`: 1 where it was learned at some checkpoint, else 0.

    Checkpoints with losses that are not finite are left out (`attrs["left_out"]`); padding is NaN.
    `attrs` count tokens, those without an age, and those that rise. Raises InputError for fewer
    than 8 checkpoints.
    """
    loss = in_order(group["loss"].transpose("step", "sequence", "position"))
    steps = loss["step"].values
    finite = np.logical_and.reduce(list(over_tokens(_finite, [loss])))
    if finite.sum() < _FEWEST:
        raise InputError(
            f"learning curves need at least {_FEWEST} finite checkpoints, found {finite.sum()}"
        )
    fits = _Fits.of(steps[finite])
    blocks = list(over_tokens(lambda block: _described(block, finite, fits), [loss]))
    columns = {
        name: np.concatenate([block[name] for block in blocks]).reshape(loss.shape[1:])
        for name in blocks[0]
    }
    counted = np.isfinite(columns["final_surprisal"])
    without = counted & np.isnan(columns["age_of_acquisition"])
    return xr.Dataset(
        {
            name: variable(("sequence", "position"), values, *_ABOUT[name])
            for name, values in columns.items()
        },
        {dim: loss[dim].values for dim in ("sequence", "position") if dim in loss.coords},
        {
            "tokens": int(counted.sum()),
            "without_age": int(without.sum()),
            "rising": int(np.nansum(columns["rises"])),
            "late_checkpoints": int(fits.late.sum()),
            "left_out": [int(step) for step in steps[~finite]],
            "input": group.attrs.get("input"),
        },
    )


_ABOUT = {
    "final_surprisal": ("nats", "Mean loss over the late checkpoints.", _CHANG),
    "variability": ("nats", "Standard deviation of the loss over the late checkpoints.", _CHANG),
    "age_of_acquisition": ("steps", "Midpoint of the fitted fall of the loss.", _CHANG),
    "r_squared": ("1", "Share of the curve's variance that the fitted fall explains."),
    "fall": ("nats", "Fall of the fitted curve from the first to the last checkpoint."),
    "rises": ("1", "1 where a rising logistic function fits as well as an age demands."),
    "forgetting_events": ("1", "How often a learned token was forgotten.", _TONEVA),
    "learned": ("1", "1 where the token had more than half of the probability at some checkpoint."),
}


@dataclass(frozen=True)
class _Fits:
    """Falling logistic functions at the checkpoints, centred and of norm 1, and their falls."""

    midpoints: Float[np.ndarray, " template"]  # log10 steps
    vectors: Float[np.ndarray, "template step"]
    falls: Float[np.ndarray, " template"]  # from first to last checkpoint, at norm 1
    late: Bool[np.ndarray, " step"]

    @classmethod
    def of(cls, steps: Real[np.ndarray, " step"]) -> "_Fits":
        x = log_steps(steps)
        places = np.linspace(x[0], x[-1], _PLACES)
        midpoints, widths = (grid.ravel() for grid in np.meshgrid(places, _WIDTHS, indexing="ij"))
        shapes = -logistic(x, midpoints, widths)
        shapes -= shapes.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(shapes, axis=1)
        kept = norms > 1e-6
        vectors = shapes[kept] / norms[kept, None]
        falls = vectors[:, 0] - vectors[:, -1]
        late = steps >= LATE * steps[-1]
        return cls(midpoints[kept], vectors.astype(np.float32), falls, late)


def _finite(block: Block) -> Bool[np.ndarray, " step"]:
    return np.asarray(np.isfinite(block[:, ~padding(block)]).all(axis=1))


def _described(
    block: Block, finite: Bool[np.ndarray, " step"], fits: _Fits
) -> dict[str, Float[np.ndarray, " token"]]:
    """Return what `learning_curves` says of the tokens of a block."""
    found = [
        _of_part(block[finite, start : start + _AT_ONCE], fits)
        for start in range(0, block.shape[1], _AT_ONCE)
    ]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _of_part(
    losses: Float[np.ndarray, "step token"], fits: _Fits
) -> dict[str, Float[np.ndarray, " token"]]:
    late = losses[fits.late].astype(np.float64)
    events, learned = _forgetting(losses)
    enough = fits.late.sum() >= _LATE_LEAST
    nothing = np.where(np.isfinite(losses[0]), 0.0, np.nan)  # NaN for padding
    with np.errstate(invalid="ignore"):
        return {
            "final_surprisal": late.mean(axis=0),
            "variability": late.std(axis=0, ddof=1) if enough else np.full(late.shape[1], np.nan),
            **_fitted(losses, fits),
            "forgetting_events": events + nothing,
            "learned": learned + nothing,
        }


def _fitted(
    losses: Float[np.ndarray, "step token"], fits: _Fits
) -> dict[str, Float[np.ndarray, " token"]]:
    """Return age, R² and fall of the best falling logistic function of each token."""
    centred = losses.astype(np.float32) - losses.mean(axis=0, dtype=np.float64).astype(np.float32)
    matched = fits.vectors @ centred  # of norm 1, so that the largest product fits best
    best = matched.argmax(axis=0)
    size = np.take_along_axis(matched, best[None], axis=0)[0].astype(np.float64).clip(min=0)
    total = (centred.astype(np.float64) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.where(total > 0, size**2 / total, np.where(np.isnan(total), np.nan, 0.0))
    fall = size * fits.falls[best]
    described = (explained >= FITS) & (fall >= FALLS)
    age = np.where(described, 10 ** fits.midpoints[best], np.nan)
    # The same of curves that rise: what passes by chance does so in either direction.
    with np.errstate(invalid="ignore", divide="ignore"):
        rising = matched.min(axis=0).clip(max=0) ** 2 / total >= FITS
    rise = -matched.min(axis=0) * fits.falls[matched.argmin(axis=0)] >= FALLS
    return {
        "age_of_acquisition": age,
        "r_squared": explained.clip(max=1),
        "fall": fall,
        "rises": np.where(np.isnan(total), np.nan, rising & rise),
    }


def _forgetting(
    losses: Float[np.ndarray, "step token"],
) -> tuple[Int[np.ndarray, " token"], Bool[np.ndarray, " token"]]:
    """Return how often each token was forgotten, and whether it was ever learned."""
    known = np.zeros(losses.shape[1], dtype=bool)
    ever = known.copy()
    events = np.zeros(losses.shape[1], dtype=np.int64)
    for row in losses:
        lost = known & (row > FORGOTTEN)
        events += lost
        known = (known & ~lost) | (row < LEARNED)
        ever |= known
    return events, ever
