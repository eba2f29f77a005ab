"""Intervals of a transition's place, width and amplitude."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.aggregate.fitting import PARAMETERS, Fit, Term
from pipeline.aggregate.templates import NARROWEST, SUDDEN, logistic, orthogonal

SHARE = 0.9  # of the probability, in each interval
_PLACES, _WIDTHS = 25, 11
_NEAR = 0.6  # decades around the best place that are looked at
_UNLIKELY = 1e-4  # of the likeliest


@dataclass(frozen=True)
class Posterior:
    """Candidates for one transition, with the probability of each.

    Flat in place and in log width before the series is seen; the other terms stay where they are.
    """

    midpoints: Float[np.ndarray, " candidate"]
    widths: Float[np.ndarray, " candidate"]
    amplitudes: Float[np.ndarray, " candidate"]
    probabilities: Float[np.ndarray, " candidate"]

    def quantiles(self, values: Float[np.ndarray, " candidate"]) -> Float[np.ndarray, "3"]:
        """Return the lower end of the interval, the median and the upper end."""
        order = np.argsort(values)
        ordered = self.probabilities[order]
        tails = [(1 - SHARE) / 2, 0.5, (1 + SHARE) / 2]
        return np.interp(tails, np.cumsum(ordered) - ordered / 2, values[order])


def posterior(fit: Fit, term: Term, others: Sequence[Term]) -> Posterior:
    """Return what a series says about one of its sudden terms, on a grid around it."""
    n, templates, beside = _independent_points(fit), fit.templates, fit.beside(others)
    near = ~templates.smooth & (np.abs(templates.midpoints - term.midpoint) < _NEAR)
    errors = beside.error - beside.gains[near] + len(fit.z) * fit.noise
    # The first grid finds where the second must be fine.
    first = _on_grid(fit, others, n, *_grid(templates.midpoints[near], templates.widths[near],
        _probabilities(errors, n), term, templates.spacing))  # fmt: skip
    spacing = np.diff(np.unique(first.midpoints)).max(initial=0.0)
    grid = _grid(first.midpoints, first.widths, first.probabilities, term, spacing)
    return _on_grid(fit, others, n, *grid)


def _grid(
    midpoints: Float[np.ndarray, " candidate"],
    widths: Float[np.ndarray, " candidate"],
    probabilities: Float[np.ndarray, " candidate"],
    term: Term,
    spacing: float,
) -> tuple[Float[np.ndarray, " place"], Float[np.ndarray, " width"]]:
    """Return places and widths over the candidates that are not unlikely."""
    kept = probabilities > _UNLIKELY * probabilities.max()
    places, sizes = np.append(midpoints[kept], term.midpoint), np.append(widths[kept], term.width)
    narrow, wide = max(sizes.min() / 1.2, NARROWEST), min(sizes.max() * 1.2, SUDDEN)
    ends = places.min() - spacing, places.max() + spacing
    return np.linspace(*ends, _PLACES), np.geomspace(narrow, wide, _WIDTHS)


def _on_grid(
    fit: Fit,
    others: Sequence[Term],
    n: float,
    places: Float[np.ndarray, " place"],
    widths: Float[np.ndarray, " width"],
) -> Posterior:
    at, wide = (grid.ravel() for grid in np.meshgrid(places, widths, indexing="ij"))
    sudden = np.zeros(len(at), dtype=bool)
    shapes = orthogonal(fit.axis, logistic(fit.axis.x, at, wide), at, wide, sudden)
    vectors = [one.vector for one in others]
    rows = np.stack(vectors) @ shapes.vectors.T if vectors else np.zeros((0, len(shapes.norms)))
    found = fit.beside_of(others, rows, shapes.vectors @ fit.z)
    errors = found.error - found.gains + len(fit.z) * fit.noise
    amplitudes = found.coefficients / shapes.norms
    return Posterior(shapes.midpoints, shapes.widths, amplitudes, _probabilities(errors, n))


def _independent_points(fit: Fit) -> float:
    """Return how many independent points the residuals are worth, less those spent on terms."""
    n, residuals, count = len(fit.z), fit.residuals, len(fit.terms)
    power = float(residuals @ residuals) + n * fit.noise
    # A fit takes some of the autocorrelation with it.
    rho = float(residuals[1:] @ residuals[:-1]) / power + PARAMETERS * count / n
    rho = min(max(rho, 0.0), 0.99)
    return max(n - 2 - PARAMETERS * count, 1.0) * (1 - rho) / (1 + rho)


def _probabilities(
    errors: Float[np.ndarray, " candidate"], n: float
) -> Float[np.ndarray, " candidate"]:
    likelihoods = np.exp(-n / 2 * np.log(errors / errors.min()))
    return likelihoods / likelihoods.sum()
