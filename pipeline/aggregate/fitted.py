"""The description of many series over the same steps, each by its own fit."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from pipeline.aggregate.fitting import Fit
from pipeline.aggregate.log_axis import make_axis, without_spikes
from pipeline.aggregate.templates import make_templates


class Fitted(NamedTuple):
    """A series with its fit. cleaned: without spikes. means: of its bins."""

    fit: Fit
    cleaned: Float[np.ndarray, " step"]
    means: Float[np.ndarray, " bin"]
    spikes: int


def fit_all(
    steps: Integer[np.ndarray, " step"], values: Float[np.ndarray, "series step"]
) -> Iterator[Fitted]:
    """Yield the fits of finite series over ascending steps, of which there are at least 10."""
    axis = make_axis(steps)
    templates = make_templates(axis)
    cleaned, spikes = without_spikes(steps, values)
    binned = axis.binned(cleaned)
    # All series at once: the products with the templates take most of the time.
    projected = templates.project(binned)
    matched = projected @ templates.vectors.T
    for series, spiked, means, z, c in zip(
        cleaned, spikes, binned, projected, matched, strict=True
    ):
        fit = Fit(axis, templates, z, c, float(np.ptp(means)))
        yield Fitted(fit, series, means, int(spiked.sum()))
