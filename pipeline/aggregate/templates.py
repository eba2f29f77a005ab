"""Shapes that a series over training may have, as vectors on an axis.

Sudden: logistic functions of log steps that rise from 10 to 90% within one decade. Smooth: slower
logistic functions, and the curves of learning without a transition, power laws and exponentials of
steps. An exponential takes 1.34 decades from 10 to 90%, a power law more: relaxation from the
beginning of training is never sudden.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pipeline.aggregate.log_axis import LogAxis

SUDDEN = 1.0  # decades from 10 to 90%, at most
NARROWEST = 0.01
_WIDTHS = np.geomspace(0.02, SUDDEN, 9)
_PLACES = 81
_SMOOTH_WIDTHS = (1.34, 1.7, 2.2, 3.0)
_SMOOTH_PLACES = 41
_EXPONENTS = (0.1, 0.25, 0.5, 1.0, 2.0)
_SCALES = 21
_SLOPE = 2 * np.log(9)  # of a logistic function that takes 1 from 10 to 90%


@dataclass(frozen=True)
class Templates:
    """Vectors on an axis, weighted by the bins' counts, without constant and line, of norm 1.

    vectors: the templates. norms: before scaling; a coefficient divided by it is an amplitude.
    midpoints, widths: log10 steps and decades, of sudden ones. smooth: which are
    no transition. spacing: decades between the places of sudden ones.
    """

    base: Float[np.ndarray, "2 bin"]
    root: Float[np.ndarray, " bin"]
    vectors: Float[np.ndarray, "template bin"]
    norms: Float[np.ndarray, " template"]
    midpoints: Float[np.ndarray, " template"]
    widths: Float[np.ndarray, " template"]
    smooth: Bool[np.ndarray, " template"]
    spacing: float

    @property
    def constant(self) -> Float[np.ndarray, " bin"]:
        """Return the weighted constant, of norm 1."""
        return self.root / np.linalg.norm(self.root)

    def project(self, values: Float[np.ndarray, "series bin"]) -> Float[np.ndarray, "series bin"]:
        """Return weighted values without their constant and their line."""
        weighted = values * self.root
        return weighted - (weighted @ self.base.T) @ self.base


def logistic(
    x: Float[np.ndarray, " bin"],
    midpoints: Float[np.ndarray, " n"],
    widths: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n bin"]:
    """Return logistic functions of x that rise from 10 to 90% over `widths`."""
    at = (x - midpoints[:, None]) * (_SLOPE / widths[:, None])
    return 0.5 * (1 + np.tanh(at / 2))


def make_templates(axis: LogAxis) -> Templates:
    """Return the templates for an axis."""
    x = axis.x
    places = np.linspace(x[0], x[-1], _PLACES)
    midpoints, widths = (grid.ravel() for grid in np.meshgrid(places, _WIDTHS, indexing="ij"))
    wide = np.linspace(x[0] - 1, x[-1] + 1, _SMOOTH_PLACES)
    slow = [grid.ravel() for grid in np.meshgrid(wide, _SMOOTH_WIDTHS, indexing="ij")]
    relaxing = _relaxations(axis)
    shapes = np.concatenate([logistic(x, midpoints, widths), logistic(x, *slow), relaxing])
    others = np.full(len(shapes) - len(midpoints), np.nan)
    smooth = np.arange(len(shapes)) >= len(midpoints)
    return orthogonal(axis, shapes, np.append(midpoints, others), np.append(widths, others), smooth)


def unit_logistic(
    axis: LogAxis, templates: Templates, midpoint: float, width: float
) -> tuple[Float[np.ndarray, " bin"], float]:
    """Return one logistic function as a vector of norm 1, and its norm before."""
    shape = 0.5 * (1 + np.tanh((axis.x - midpoint) * (_SLOPE / width / 2)))
    vector = templates.project(shape[None])[0]
    norm = max(float(np.linalg.norm(vector)), 1e-12)
    return vector / norm, norm


def logistic_derivatives(
    axis: LogAxis, templates: Templates, midpoint: float, width: float
) -> Float[np.ndarray, "2 bin"]:
    """Return the derivatives of a logistic function by its midpoint and by the log of its width."""
    at = (axis.x - midpoint) * (_SLOPE / width)
    slope = 0.25 / np.cosh(np.clip(at / 2, -300, 300)) ** 2
    return templates.project(np.stack([-slope * _SLOPE / width, -slope * at]))


def orthogonal(
    axis: LogAxis,
    shapes: Float[np.ndarray, "template bin"],
    midpoints: Float[np.ndarray, " template"],
    widths: Float[np.ndarray, " template"],
    smooth: Bool[np.ndarray, " template"],
) -> Templates:
    """Return shapes as templates; those that are a line on this axis are left out."""
    root = np.sqrt(axis.counts.astype(np.float64))
    base = np.linalg.qr(np.stack([root, root * axis.x], axis=1))[0].T
    vectors = shapes * root
    vectors -= (vectors @ base.T) @ base
    norms = np.linalg.norm(vectors, axis=1)
    kept = norms > 1e-3 * np.linalg.norm(root)
    vectors = vectors[kept] / norms[kept, None]
    spacing = float(axis.x[-1] - axis.x[0]) / (_PLACES - 1)
    described = (midpoints[kept], widths[kept], smooth[kept], spacing)
    return Templates(base, root, vectors, norms[kept], *described)


def _relaxations(axis: LogAxis) -> Float[np.ndarray, "n bin"]:
    """Return power laws and exponentials of the steps, averaged in bins."""
    steps, span = axis.steps.astype(np.float64), axis.x[-1] - axis.x[0]
    scales = 10 ** np.linspace(axis.x[0] - 0.5, axis.x[-1] + 0.1 * span, _SCALES)
    at = steps / scales[:, None]
    curves = [*(np.exp(-at),), *((1 + at) ** -exponent for exponent in _EXPONENTS)]
    return axis.binned(np.concatenate(curves))
