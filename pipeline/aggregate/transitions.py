"""Transitions: does a series over training change suddenly, smoothly or not at all, and when?

A series is described as a line over log steps and up to five templates (see
`pipeline.aggregate.fitting`). A sudden template is reported as a transition where

- it begins and ends within the series: checkpoints lie beyond 10 and beyond 90% of it;
- no smooth template in its place comes near it: the log likelihood ratio is at least `EVIDENCE`;
- it is at least `SMALLEST` standard deviations of the residuals large;
- it is not the correction of a larger one beside it.

tests/benchmarks/transitions.py prints how many planted transitions are found by this, and how often
a series without any is said to have one. Random walks often look sudden.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer, Real

from pipeline.aggregate.fitted import fit_all
from pipeline.aggregate.fitting import PARAMETERS, Fit, Term
from pipeline.aggregate.posterior import posterior

Shape = Literal["sudden", "smooth", "none", "cannot tell"]
Interval = tuple[float, float]

EVIDENCE = 10.0  # twice the log likelihood ratio to the best smooth curve
DOUBTFUL = 4.0  # from here on, up to EVIDENCE, nothing is claimed
SMALLEST = 2.5  # amplitude, in standard deviations of the residuals
FEWEST = 10  # checkpoints, without which nothing is claimed
_PART = 0.35  # of a neighbour's amplitude, below which a term only corrects it


@dataclass(frozen=True)
class Transition:
    """A sudden change of a series; places are in training steps.

    onset, midpoint, end: the steps at which 10, 50 and 90% of the change are done, each with an
    interval that holds the true step with a probability of 90%. amplitude: of the change, in the
    unit of the series, with its interval. width: log10(end / onset). evidence: twice the log
    likelihood ratio to the best smooth curve in its place.
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
    """The shape of a series, and its transitions in the order of their steps.

    shape: "sudden" with a transition; "smooth" if it changes without one; "none" if it does not
    change beyond its noise; "cannot tell" if there is a change that may be sudden. spikes: values
    that were replaced. left_out: values that are not finite.
    """

    shape: Shape
    transitions: tuple[Transition, ...] = ()
    spikes: int = 0
    left_out: int = 0

    @property
    def largest(self) -> Transition | None:
        """Return the transition with the largest amplitude, the earliest of equal ones."""
        return max(self.transitions, key=lambda one: abs(one.amplitude), default=None)


def find_transitions(
    steps: Integer[np.ndarray, " step"] | Sequence[int],
    values: Real[np.ndarray, " step"] | Sequence[float],
) -> list[Transition]:
    """Return the sudden changes of one series, in the order of their steps.

    Values that are not finite are left out. Empty for fewer than `FEWEST` of them. Raises
    ValueError for steps and values of different lengths, and for a step that occurs twice or is
    negative.
    """
    if len(steps) != len(values):
        raise ValueError(f"{len(values)} values, expected one for each of {len(steps)} steps")
    (found,) = scan(np.asarray(steps), np.asarray(values, dtype=np.float64)[None])
    return list(found.transitions)


def scan_series(series: xr.DataArray) -> Scanned:
    """Return what one series does (dims: step)."""
    (found,) = scan(series["step"].values, series.values[None].astype(np.float64))
    return found


def scan(
    steps: Integer[np.ndarray, " step"], values: Real[np.ndarray, "series step"]
) -> list[Scanned]:
    """Return what each of many series over the same distinct steps does.

    Steps may be in any order. Values that are not finite are left out. Raises ValueError for a
    step that occurs twice or is negative.
    """
    order = np.argsort(steps)
    steps, values = steps[order], np.asarray(values, dtype=np.float64)[:, order]
    if len(steps) and (steps[0] < 0 or not np.diff(steps).all()):
        raise ValueError("steps must be distinct and not negative")
    finite = np.isfinite(values)
    found: list[Scanned | None] = [None] * len(values)
    # Series that lack the same checkpoints share an axis.
    patterns, which = np.unique(finite, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        mine = np.flatnonzero(which.ravel() == number)
        left_out = int((~pattern).sum())
        for place, one in zip(
            mine, _scan_finite(steps[pattern], values[mine][:, pattern], left_out), strict=True
        ):
            found[place] = one
    return [one for one in found if one is not None]


def _scan_finite(
    steps: Integer[np.ndarray, " step"], values: Float[np.ndarray, "series step"], left_out: int
) -> Iterator[Scanned]:
    if len(steps) < FEWEST:
        yield from (Scanned("cannot tell", left_out=left_out) for _ in values)
        return
    # By a power of two, which changes no digit: squares of large or small numbers would be lost.
    _, powers = np.frexp(np.abs(values).max(axis=1))
    values = np.ldexp(values, -powers[:, None])
    for (fit, _, means, spikes), power in zip(fit_all(steps, values), powers, strict=True):
        yield _scaled(_judged(fit, means, spikes, left_out), int(power))


def _scaled(found: Scanned, power: int) -> Scanned:
    """Return what was found in a series divided by a power of two, in the series' own unit."""
    scaled = [
        replace(
            one,
            amplitude=float(np.ldexp(one.amplitude, power)),
            amplitude_interval=(
                float(np.ldexp(one.amplitude_interval[0], power)),
                float(np.ldexp(one.amplitude_interval[1], power)),
            ),
        )
        for one in found.transitions
    ]
    return replace(found, transitions=tuple(scaled))


def _judged(fit: Fit, means: Float[np.ndarray, " bin"], spikes: int, left_out: int) -> Scanned:
    flat = means * fit.templates.root
    constant = flat - (flat @ fit.templates.constant) * fit.templates.constant
    candidates = list(_candidates(fit))
    transitions = [_described(fit, *one) for one in candidates if one[2] >= EVIDENCE]
    transitions.sort(key=lambda one: one.midpoint)
    spent = PARAMETERS * len(fit.terms) + 1
    change = 2 * (fit.likelihood(fit.residuals) - fit.likelihood(constant))
    if transitions:
        shape: Shape = "sudden"
    elif any(evidence >= DOUBTFUL for _, _, evidence in candidates):
        shape = "cannot tell"
    else:
        shape = "smooth" if change >= EVIDENCE + spent else "none"
    return Scanned(shape, tuple(transitions), spikes, left_out)


def _candidates(fit: Fit) -> Iterator[tuple[Term, tuple[Term, ...], float]]:
    """Yield the sudden terms that are large enough, with the other terms and their evidence."""
    freedom = max(len(fit.z) - 2 - PARAMETERS * len(fit.terms), 1)
    deviation = np.sqrt(float(fit.residuals @ fit.residuals) / freedom)
    for place, term in enumerate(fit.terms):
        others = fit.terms[:place] + fit.terms[place + 1 :]
        large = abs(fit.amplitudes[place]) >= SMALLEST * deviation
        seen = fit.axis.holds(term.midpoint - term.width / 2, term.midpoint + term.width / 2)
        if term.is_sudden and large and seen and not _corrects_another(fit, place):
            yield term, others, _evidence(fit, term, others)


def _evidence(fit: Fit, term: Term, others: tuple[Term, ...]) -> float:
    gains = np.where(fit.templates.smooth, fit.beside(others).gains, -1.0)
    rival = fit.residuals_of((*others, fit.term(int(gains.argmax()))))
    ratio = 2 * (fit.likelihood(fit.residuals) - fit.likelihood(rival))
    share = max(1 - (2 + PARAMETERS * len(fit.terms)) / len(fit.z), 1 / len(fit.z))
    return ratio * share / max(_local_excess(fit, term), 1.0)


def _local_excess(fit: Fit, term: Term) -> float:
    """Return the residuals' variance around a transition over that of the whole series."""
    count = max(len(fit.z) // 5, FEWEST)
    near = fit.residuals[np.argsort(np.abs(fit.axis.x - term.midpoint))[:count]]
    here, everywhere = near @ near / len(near), fit.residuals @ fit.residuals / len(fit.z)
    return float((here + fit.noise) / (everywhere + fit.noise))


def _corrects_another(fit: Fit, place: int) -> bool:
    """Return whether a term is much smaller than one beside it, whose shape it corrects."""
    one, size = fit.terms[place], abs(fit.amplitudes[place])
    return any(
        size < _PART * abs(fit.amplitudes[i])
        and abs(one.midpoint - other.midpoint) < one.width + other.width + 2 * fit.templates.spacing
        for i, other in enumerate(fit.terms)
        if i != place and other.is_sudden
    )


def _described(fit: Fit, term: Term, others: tuple[Term, ...], evidence: float) -> Transition:
    found = posterior(fit, term, others)
    places = [found.quantiles(found.midpoints + part * found.widths) for part in (-0.5, 0, 0.5)]
    low, amplitude, high = (float(one) for one in found.quantiles(found.amplitudes))
    onset, midpoint, end = (tuple(float(10**one) for one in at) for at in places)
    return Transition(
        onset=onset[1],
        midpoint=midpoint[1],
        end=end[1],
        onset_interval=(onset[0], onset[2]),
        midpoint_interval=(midpoint[0], midpoint[2]),
        end_interval=(end[0], end[2]),
        amplitude=amplitude,
        amplitude_interval=(low, high),
        width=float(found.quantiles(found.widths)[1]),
        evidence=evidence,
    )
