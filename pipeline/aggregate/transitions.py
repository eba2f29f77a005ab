"""Transitions: does a series over training change suddenly, smoothly, or not at all, and when?

A series is described as a line over log steps and up to five templates (see
`pipeline.aggregate.templates`), chosen one by one. A sudden template is reported as a transition
where no smooth one in its place comes near: the log likelihood ratio decides, with as many
independent points as the residuals' autocorrelation leaves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Real

from pipeline.aggregate.log_axis import LogAxis, make_axis, without_spikes
from pipeline.aggregate.templates import (
    SUDDEN,
    Templates,
    logistic,
    logistic_derivatives,
    make_templates,
    orthogonal,
    seen_to_begin_and_end,
    single,
)

Shape = Literal["sudden", "smooth", "none", "cannot tell"]
Interval = tuple[float, float]

EVIDENCE = 10.0  # log likelihood ratio over the best smooth curve
SMALLEST = 2.5  # amplitude, in standard deviations of the residuals
MOST = 5  # templates of one series
_NEW = 0.05  # share of a template's norm that the others must leave
_PENALTY = 3.0  # parameters of a template: place, width and amplitude
_PART = 0.35  # of a neighbour's amplitude, below which a term is part of it
_FLOOR = 0.02  # of a series' range: the templates' grid describes no curve better than that


@dataclass(frozen=True)
class Transition:
    """A sudden change of a series, in training steps.

    onset, midpoint, end: the steps at which 10, 50 and 90% of the change are done, with intervals
    that hold the true step with a probability of 90%. amplitude: of the change, in the series' own
    unit. width: log10(end / onset). evidence: log likelihood ratio over the best smooth curve.
    """

    onset: float
    midpoint: float
    end: float
    onset_interval: Interval
    midpoint_interval: Interval
    end_interval: Interval
    amplitude: float
    amplitude_interval: Interval
    width: float
    evidence: float


@dataclass(frozen=True)
class Scanned:
    """What a series does: its shape, its transitions by step, and how many spikes were removed."""

    shape: Shape
    transitions: list[Transition]
    spikes: int = 0


def find_transitions(
    steps: Real[np.ndarray, " step"] | Sequence[int], values: Real[np.ndarray, " step"] | Sequence[float]
) -> list[Transition]:
    """Return the sudden changes of one series, in the order of their steps."""
    (result,) = scan(np.asarray(steps), np.asarray(values, dtype=np.float64)[None])
    return result.transitions


def scan(
    steps: Integer[np.ndarray, " step"],
    values: Float[np.ndarray, "series step"],
    *,
    evidence: float = EVIDENCE,
) -> list[Scanned]:
    """Return what each of many series over the same steps does."""
    axis = make_axis(steps)
    templates = make_templates(axis)
    cleaned, spikes = without_spikes(values)
    binned = axis.binned(cleaned)
    projected = templates.project(binned)
    matched = projected @ templates.vectors.T
    ranges = np.ptp(binned, axis=1)
    found = []
    for z, c, size, spiked in zip(projected, matched, ranges, spikes.sum(axis=1), strict=True):
        floor = len(steps) * (_FLOOR * size) ** 2 if size else 1.0
        fit = _Fit(axis, templates, z, c, floor)
        transitions = fit.transitions(evidence)
        shape: Shape = "sudden" if transitions else "none"
        found.append(Scanned(shape, transitions, int(spiked)))
    return found


@dataclass
class _Term:
    """A template of a series; a sudden one is moved off the grid to where it fits best.

    index: in the dictionary. vector: of norm 1. products: with all templates. norm: before scaling.
    """

    index: int
    vector: Float[np.ndarray, " bin"]
    products: Float[np.ndarray, " template"]
    norm: float
    midpoint: float
    width: float


class _Gains(NamedTuple):
    """By how much each template would lower the squared error beside some terms."""

    error: float  # of the terms alone
    gains: Float[np.ndarray, " template"]


class _Fit:
    """The terms of one series, chosen greedily."""

    def __init__(
        self,
        axis: LogAxis,
        templates: Templates,
        projected: Float[np.ndarray, " bin"],
        matched: Float[np.ndarray, " template"],
        floor: float,
    ) -> None:
        self.axis, self.templates = axis, templates
        self.z, self.matched, self.floor = projected, matched, floor
        self.total = float(projected @ projected)
        self.terms: list[_Term] = []
        self._choose()

    def _choose(self) -> None:
        n, floor = len(self.z), self.floor / len(self.axis.steps)
        best, terms = np.log(_innovation(self.z) + floor) * n, self.terms
        plain = n * np.log(self.total + self.floor)
        for count in range(1, MOST + 1):
            terms = [*terms, self._term(int(self._gains(terms).gains.argmax()))]
            terms = self._backfitted(terms)
            left = _innovation(self._residuals_of(terms)) + floor
            score = n * np.log(left) + PEN * np.log(n) * count
            if score < best:
                best, self.terms = score, terms
            error = n * np.log(self._error(terms) + self.floor) + _PENALTY * np.log(n) * count
            if error >= plain and score > best:
                return
            plain = error

    def _backfitted(self, terms: list[_Term]) -> list[_Term]:
        """Choose each term anew beside the others, and move the sudden ones off the grid."""
        for _ in range(2 if len(terms) > 1 else 0):
            before = [one.index for one in terms]
            for place in range(len(terms)):
                others = terms[:place] + terms[place + 1 :]
                found = int(self._gains(others).gains.argmax())
                if found != terms[place].index:
                    terms[place] = self._term(found)
            if [one.index for one in terms] == before:
                break
        return self._moved(terms)

    def _moved(self, terms: list[_Term]) -> list[_Term]:
        """Move sudden terms to the places and widths of least squares (Gauss-Newton)."""
        error = self._error(terms)
        for _ in range(4):
            sudden = [i for i, one in enumerate(terms) if not self.templates.smooth[one.index]]
            if not sudden:
                return terms
            vectors = np.stack([one.vector for one in terms])
            coefficients = np.linalg.lstsq(vectors.T, self.z, rcond=None)[0]
            residuals = self.z - coefficients @ vectors
            slopes = np.concatenate(
                [coefficients[i] / terms[i].norm * self._derivatives(terms[i]) for i in sudden]
            )
            columns = np.concatenate([vectors, slopes])
            moves = np.linalg.lstsq(columns.T, residuals, rcond=1e-6)[0][len(terms) :].reshape(-1, 2)
            tried = list(terms)
            for i, (place, size) in zip(sudden, moves, strict=True):
                one = terms[i]
                limit = max(one.width / 2, self._spacing)
                midpoint = one.midpoint + float(np.clip(place, -limit, limit))
                width = one.width * float(np.exp(np.clip(size, -0.35, 0.35)))
                tried[i] = self._sudden(one.index, midpoint, min(max(width, 0.01), SUDDEN))
            found = self._error(tried)
            if not found < error:
                return terms
            gained, error, terms = error - found, found, tried
            if gained < 1e-3 * (error + self.floor):
                return terms
        return terms

    @property
    def _spacing(self) -> float:
        return (self.axis.x[-1] - self.axis.x[0]) / 120

    def _derivatives(self, term: _Term) -> Float[np.ndarray, "2 bin"]:
        """Return the derivatives of a logistic function by midpoint and by log width."""
        return logistic_derivatives(self.axis, self.templates, term.midpoint, term.width)

    def _term(self, index: int) -> _Term:
        t = self.templates
        return _Term(
            index,
            t.vectors[index],
            t.vectors @ t.vectors[index],
            t.norms[index],
            t.midpoints[index],
            t.widths[index],
        )

    def _sudden(self, index: int, midpoint: float, width: float) -> _Term:
        vector, norm = single(self.axis, self.templates, midpoint, width)
        return _Term(index, vector, self.templates.vectors @ vector, norm, midpoint, width)

    def _error(self, terms: list[_Term]) -> float:
        if not terms:
            return self.total
        vectors = np.stack([one.vector for one in terms])
        matched = vectors @ self.z
        solved = np.linalg.lstsq(vectors @ vectors.T, matched, rcond=1e-9)[0]
        return max(self.total - float(matched @ solved), 0.0)

    def _gains(self, others: list[_Term]) -> _Gains:
        if not others:
            return _Gains(self.total, self.matched**2)
        rows = np.stack([one.products for one in others])
        error, left, new = self._beside(others, rows, self.matched)
        gains = np.where(new > _NEW, left**2 / np.maximum(new, _NEW), 0.0)
        return _Gains(error, gains)

    def _beside(
        self,
        others: list[_Term],
        rows: Float[np.ndarray, "other template"],
        matched: Float[np.ndarray, " template"],
    ) -> tuple[float, Float[np.ndarray, " template"], Float[np.ndarray, " template"]]:
        """Return the error of some terms, and what they leave of templates' products and norms."""
        vectors = np.stack([one.vector for one in others])
        inverse = np.linalg.pinv(vectors @ vectors.T, rcond=1e-9)
        mine = vectors @ self.z
        left = matched - (inverse @ mine) @ rows
        new = 1 - np.einsum("ot,ot->t", rows, inverse @ rows)
        return max(self.total - float(mine @ inverse @ mine), 0.0), left, new

    def _residuals(self) -> Float[np.ndarray, " bin"]:
        return self._residuals_of(self.terms)

    def _residuals_of(self, terms: list[_Term]) -> Float[np.ndarray, " bin"]:
        if not terms:
            return self.z
        vectors = np.stack([one.vector for one in terms])
        return self.z - np.linalg.lstsq(vectors.T, self.z, rcond=None)[0] @ vectors

    def independent_points(self) -> float:
        """Return how many independent points the residuals are worth, less those spent."""
        n, residuals = len(self.z), self._residuals()
        floor = self.floor / len(self.axis.steps)
        lagged = float(residuals[1:] @ residuals[:-1])
        rho = lagged / (float(residuals @ residuals) + n * floor) + 3 * len(self.terms) / n
        rho = min(max(rho, 0.0), 0.99)
        spent = 2 + _PENALTY * len(self.terms)
        return max(n - spent, 1.0) * (1 - rho) / (1 + rho)

    def transitions(self, evidence: float) -> list[Transition]:
        """Return those of the terms that are transitions."""
        return sorted(self._reported(evidence), key=lambda found: found.midpoint)

    def _reported(self, evidence: float) -> Iterator[Transition]:
        templates, n = self.templates, self.independent_points()
        freedom = max(len(self.z) - 2 - 3 * len(self.terms), 1)
        residuals = self._residuals()
        deviation = np.sqrt(float(residuals @ residuals) / freedom)
        amplitudes = self._amplitudes()
        for place, one in enumerate(self.terms):
            if templates.smooth[one.index] or self._is_part_of_another(place, amplitudes):
                continue
            if not seen_to_begin_and_end(self.axis, one.midpoint, one.width):
                continue
            others = self.terms[:place] + self.terms[place + 1 :]
            beside = self._gains(others)
            error = self._error(self.terms)
            rival = beside.error - beside.gains[templates.smooth].max(initial=0.0)
            ratio = n * np.log((rival + self.floor) / (error + self.floor))
            excess = max(self._local_excess(one, residuals), 1.0)
            ratio /= excess
            smooth = self._term(int(np.where(templates.smooth, beside.gains, -1.0).argmax()))
            rivals = self._residuals_of([*others, smooth])
            floor = self.floor / len(self.axis.steps)
            spent = 2 + _PENALTY * len(self.terms)
            ratio2 = max(len(self.z) - spent, 1.0) * np.log(
                (_innovation(rivals) + floor) / (_innovation(residuals) + floor)
            ) / excess
            if AR == 1: ratio = ratio2
            if AR == 2: ratio = min(ratio, ratio2)
            if ratio >= evidence and abs(amplitudes[place]) >= SMALLEST * deviation:
                yield self._described(one, others, n, float(ratio))

    def _amplitudes(self) -> Float[np.ndarray, " term"]:
        if not self.terms:
            return np.zeros(0)
        vectors = np.stack([one.vector for one in self.terms])
        coefficients = np.linalg.lstsq(vectors.T, self.z, rcond=None)[0]
        return coefficients / np.array([one.norm for one in self.terms])

    def _is_part_of_another(self, place: int, amplitudes: Float[np.ndarray, " term"]) -> bool:
        """Return whether a term is small and near to another, whose shape it corrects."""
        one = self.terms[place]
        return any(
            abs(amplitudes[place]) < _PART * abs(amplitudes[i])
            and abs(one.midpoint - other.midpoint) < one.width + other.width + 2 * self._spacing
            for i, other in enumerate(self.terms)
            if i != place and not self.templates.smooth[other.index]
        )

    def _local_excess(self, one: _Term, residuals: Float[np.ndarray, " bin"]) -> float:
        """Return the residuals' variance around a transition over that of the whole series."""
        x = self.axis.x
        near = np.argsort(np.abs(x - one.midpoint))[: max(len(x) // 5, 10)]
        floor = self.floor / len(self.axis.steps)
        return float((residuals[near] @ residuals[near] / len(near) + floor)) / float(
            residuals @ residuals / len(residuals) + floor
        )

    def _described(self, one: _Term, others: list[_Term], n: float, ratio: float) -> Transition:
        midpoints, widths, weights, amplitudes = self._posterior(one, others, n)
        middle = _quantiles(midpoints, weights)
        onset = _quantiles(midpoints - widths / 2, weights)
        end = _quantiles(midpoints + widths / 2, weights)
        size = _quantiles(amplitudes, weights)
        return Transition(
            onset=float(10 ** onset[1]),
            midpoint=float(10 ** middle[1]),
            end=float(10 ** end[1]),
            onset_interval=_steps(onset),
            midpoint_interval=_steps(middle),
            end_interval=_steps(end),
            amplitude=float(size[1]),
            amplitude_interval=(float(size[0]), float(size[2])),
            width=float(_quantiles(widths, weights)[1]),
            evidence=ratio,
        )

    def _posterior(self, one: _Term, others: list[_Term], n: float) -> tuple[np.ndarray, ...]:
        """Return places, widths, their probabilities and amplitudes, flat in place and log width."""
        templates, spacing = self.templates, self._spacing
        beside = self._gains(others)
        near = np.flatnonzero(
            ~templates.smooth & (np.abs(templates.midpoints - one.midpoint) < 0.6)
        )
        weights = _weights(beside.error - beside.gains[near] + self.floor, n)
        kept = near[weights > 1e-4 * weights.max()]
        low = min(templates.midpoints[kept].min(), one.midpoint) - spacing
        high = max(templates.midpoints[kept].max(), one.midpoint) + spacing
        narrow = min(templates.widths[kept].min(), one.width)
        wide = max(templates.widths[kept].max(), one.width)
        places = np.linspace(low, high, 41)
        sizes = np.geomspace(max(narrow / 1.35, 0.01), min(wide * 1.35, SUDDEN), 21)
        fine = [grid.ravel() for grid in np.meshgrid(places, sizes, indexing="ij")]
        kinds = np.ones(len(fine[0]), dtype=bool)
        shapes = orthogonal(self.axis, logistic(self.axis.x, *fine), *fine, ~kinds)
        matched = shapes.vectors @ self.z
        error, left, new = self.total, matched, np.ones(len(matched))
        if others:
            rows = np.stack([other.vector for other in others]) @ shapes.vectors.T
            error, left, new = self._beside(others, rows, matched)
        new = np.maximum(new, _NEW)
        weights = _weights(np.maximum(error - left**2 / new, 0.0) + self.floor, n)
        return shapes.midpoints, shapes.widths, weights, left / new / shapes.norms


import os
PEN = float(os.environ.get("PEN", "3"))
PATIENCE = int(os.environ.get("PAT", "2"))
AR = int(os.environ.get("AR", "1"))


def _innovation(residuals: np.ndarray) -> float:
    """Return the variance of what an autoregression of order one leaves of residuals."""
    before, after = residuals[:-1], residuals[1:]
    rho = float(np.clip(before @ after / max(float(before @ before), 1e-300), 0, 0.98))
    left = after - rho * before
    return float(left @ left) / len(left)


def _weights(errors: np.ndarray, n: float) -> np.ndarray:
    weights = np.exp(-n / 2 * np.log(errors / errors.min()))
    return weights / weights.sum()


def _quantiles(values: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "3"]:
    """Return the 5, 50 and 95% quantiles of weighted values."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) - weights[order] / 2
    return np.interp([0.05, 0.5, 0.95], cumulated, values[order])


def _steps(quantiles: Float[np.ndarray, "3"]) -> Interval:
    return float(10 ** quantiles[0]), float(10 ** quantiles[2])
