"""A series as a line over log steps and a few templates, chosen one by one.

Each further term is the template that lowers the squared error most; then every term is chosen anew
beside the others, and sudden ones are moved off the grid to where they fit best. Of the models on
this path the one is kept whose likelihood, less a penalty for its parameters, is highest, with
residuals that may be autocorrelated: noise that wanders is no step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from pipeline.aggregate.log_axis import LogAxis
from pipeline.aggregate.templates import (
    NARROWEST,
    SUDDEN,
    Templates,
    logistic_derivatives,
    unit_logistic,
)

MOST = 5  # terms of one series
PARAMETERS = 3  # of a term: place, width and amplitude
NEW = 0.05  # share of a template's squared norm that the others must leave
_FLOOR = 0.02  # of a series' range: the grid of templates describes no curve better than that
_MOVES = 4  # Gauss-Newton steps: more change little


@dataclass(frozen=True)
class Term:
    """A template in the description of a series.

    index: of the template that it was chosen as. vector: of norm 1. norm: before scaling. midpoint,
    width: log10 steps and decades; NaN for a smooth one.
    """

    templates: Templates
    index: int
    vector: Float[np.ndarray, " bin"]
    norm: float
    midpoint: float
    width: float

    @property
    def is_sudden(self) -> bool:
        """Return whether the term may be a transition."""
        return not self.templates.smooth[self.index]

    @cached_property
    def products(self) -> Float[np.ndarray, " template"]:
        """Return the products with all templates."""
        return self.templates.vectors @ self.vector


@dataclass(frozen=True)
class Beside:
    """What candidates would add beside other terms.

    error: the squared error of the others alone. gains: by how much each candidate lowers it.
    coefficients: of each candidate, of norm 1, beside the others.
    """

    error: float
    gains: Float[np.ndarray, " candidate"]
    coefficients: Float[np.ndarray, " candidate"]


class Fit:
    """The terms that describe one series.

    z: its weighted values without their line. matched: their products with all templates. noise: a
    squared deviation per bin that is added to every error, since no template fits more exactly.
    """

    def __init__(
        self,
        axis: LogAxis,
        templates: Templates,
        z: Float[np.ndarray, " bin"],
        matched: Float[np.ndarray, " template"],
        span: float,
    ) -> None:
        self.axis, self.templates, self.z, self.matched = axis, templates, z, matched
        self.noise = (_FLOOR * span) ** 2 or 1.0
        self.total = float(z @ z)
        self.terms: tuple[Term, ...] = ()
        self._choose()

    @cached_property
    def residuals(self) -> Float[np.ndarray, " bin"]:
        """Return the weighted residuals."""
        return self.residuals_of(self.terms)

    @cached_property
    def amplitudes(self) -> Float[np.ndarray, " term"]:
        """Return the amplitude of each term, in the unit of the series."""
        norms = np.array([one.norm for one in self.terms])
        return self._coefficients(self.terms) / norms

    def residuals_of(self, terms: Sequence[Term]) -> Float[np.ndarray, " bin"]:
        """Return what some terms leave of the series."""
        if not terms:
            return self.z
        return self.z - self._coefficients(terms) @ _vectors(terms)

    def likelihood(self, residuals: Float[np.ndarray, " bin"]) -> float:
        """Return the log likelihood of residuals, an autoregression of order one; see the module.

        Up to a constant: -n/2 ln(variance of the innovations).
        """
        return -len(self.z) / 2 * float(np.log(innovation(residuals) + self.noise))

    def beside(self, others: Sequence[Term]) -> Beside:
        """Return what every template would add beside other terms."""
        if not others:
            return Beside(self.total, self.matched**2, self.matched)
        rows = np.stack([one.products for one in others])
        return self.beside_of(others, rows, self.matched)

    def beside_of(
        self,
        others: Sequence[Term],
        rows: Float[np.ndarray, "other candidate"],
        matched: Float[np.ndarray, " candidate"],
    ) -> Beside:
        """Return what candidates would add, from their products with the others and the series."""
        if not others:
            return Beside(self.total, matched**2, matched)
        vectors = _vectors(others)
        inverse = _inverse(vectors @ vectors.T)
        mine = vectors @ self.z
        left = matched - (mine @ inverse) @ rows
        new = 1 - np.einsum("oc,oc->c", rows, inverse @ rows)
        coefficients = np.where(new > NEW, left / np.maximum(new, NEW), 0.0)
        error = max(self.total - float(mine @ inverse @ mine), 0.0)
        return Beside(error, np.where(new > NEW, coefficients * left, 0.0), coefficients)

    def term(self, index: int) -> Term:
        """Return a template as a term."""
        t = self.templates
        vector, norm = t.vectors[index], float(t.norms[index])
        return Term(t, index, vector, norm, float(t.midpoints[index]), float(t.widths[index]))

    def _choose(self) -> None:
        n, terms = len(self.z), self.terms
        penalty = PARAMETERS / 2 * np.log(n)
        best, plain = self.likelihood(self.z), self._plain(self.total)
        for count in range(1, MOST + 1):
            candidate = self.term(int(self.beside(terms).gains.argmax()))
            terms = self._chosen_anew((*terms, candidate))
            left = self.residuals_of(terms)
            score = self.likelihood(left) - penalty * count
            simple = self._plain(float(left @ left)) - penalty * count
            if score > best:
                best, self.terms = score, terms
            # Two steps may have to be described before the rest of them is no autoregression: the
            # path goes on as long as squared errors alone are in favour.
            elif simple <= plain:
                return
            plain = simple

    def _plain(self, error: float) -> float:
        n = len(self.z)
        return -n / 2 * float(np.log(error / n + self.noise))

    def _chosen_anew(self, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """Choose each term anew beside the others, and move the sudden ones off the grid."""
        for _ in range(2 if len(terms) > 1 else 0):
            before = [one.index for one in terms]
            for place in range(len(terms)):
                others = terms[:place] + terms[place + 1 :]
                index = int(self.beside(others).gains.argmax())
                if index != terms[place].index:
                    terms = (*terms[:place], self.term(index), *terms[place + 1 :])
            if [one.index for one in terms] == before:
                break
        return self._moved(terms)

    def _moved(self, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """Move sudden terms to the places and widths of least squares, by Gauss-Newton steps."""
        sudden = [place for place, one in enumerate(terms) if one.is_sudden]
        residuals = self.residuals_of(terms)
        error = float(residuals @ residuals)
        for _ in range(_MOVES if sudden else 0):
            tried = self._one_move(terms, sudden, residuals)
            residuals = self.residuals_of(tried)
            gained = error - float(residuals @ residuals)
            if gained <= 0:
                break
            terms, error = tried, error - gained
            if gained < 1e-3 * (error + len(self.z) * self.noise):
                break
        return terms

    def _one_move(
        self, terms: tuple[Term, ...], sudden: list[int], residuals: Float[np.ndarray, " bin"]
    ) -> tuple[Term, ...]:
        coefficients, moved = self._coefficients(terms), list(terms)
        slopes = np.concatenate(
            [
                coefficients[place]
                / terms[place].norm
                * logistic_derivatives(
                    self.axis, self.templates, terms[place].midpoint, terms[place].width
                )
                for place in sudden
            ]
        )
        columns = np.concatenate([_vectors(terms), slopes])
        moves = _inverse(columns @ columns.T) @ (columns @ residuals)
        moves = moves[len(terms) :].reshape(-1, 2)
        for place, (shift, growth) in zip(sudden, moves, strict=True):
            one = terms[place]
            limit = max(one.width / 2, self.templates.spacing)
            midpoint = one.midpoint + float(np.clip(shift, -limit, limit))
            width = one.width * float(np.exp(np.clip(growth, -0.35, 0.35)))
            width = min(max(width, NARROWEST), SUDDEN)
            vector, norm = unit_logistic(self.axis, self.templates, midpoint, width)
            moved[place] = Term(self.templates, one.index, vector, norm, midpoint, width)
        return tuple(moved)

    def _coefficients(self, terms: Sequence[Term]) -> Float[np.ndarray, " term"]:
        if not terms:
            return np.zeros(0)
        vectors = _vectors(terms)
        return _inverse(vectors @ vectors.T) @ (vectors @ self.z)


def innovation(residuals: Float[np.ndarray, " bin"]) -> float:
    """Return the variance of what an autoregression of order one leaves of residuals.

    Its coefficient is that of least squares, at least 0 and at most 0.98.
    """
    before, after = residuals[:-1], residuals[1:]
    power = float(before @ before)
    rho = min(max(float(before @ after) / power, 0.0), 0.98) if power else 0.0
    left = after - rho * before
    return float(left @ left) / max(len(left), 1)


def _inverse(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Return the inverse of a positive semidefinite matrix, of which singular ones are damped."""
    scale = float(np.trace(gram)) / len(gram) or 1.0
    # A step between two bins has no derivative, and two moved terms may coincide.
    return np.linalg.inv(gram + 1e-9 * scale * np.eye(len(gram)))


def _vectors(terms: Sequence[Term]) -> Float[np.ndarray, "term bin"]:
    return np.stack([one.vector for one in terms])
