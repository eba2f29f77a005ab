"""Sparklines: small charts in one line of text, for places that show only text."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from pipeline.findings.heads import strongest
from pipeline.findings.number_format import number
from pipeline.query import open_run
from pipeline.report.downsample import kept_indices

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


class Line(NamedTuple):
    """One quantity over the training run. chart: one character per step, at most 32."""

    name: str
    chart: str
    first: str
    last: str


def overview(store_uri: str) -> list[Line]:
    """Return a line for every scalar variable of a store, and every head score's maximum."""
    return [line for name, node in open_run(store_uri).children.items() for line in _of(name, node)]


def sparkline(series: xr.DataArray) -> str:
    """Return `series` (dims: step) as bars from its lowest to its highest value.

    Undefined values are gaps. Of more steps than fit, those evenly spaced in log(1 + step).
    """
    values = series.values[kept_indices(series["step"].values, _WIDTH)].astype(np.float64)
    defined = np.isfinite(values)
    if not defined.any():
        return " " * len(values)
    low, high = values[defined].min(), values[defined].max()
    # A constant series is drawn at the bottom, instead of 0 / 0.
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return "".join(
        _BARS[min(int(one * len(_BARS)), len(_BARS) - 1)] if ok else " "
        for one, ok in zip(share, defined, strict=True)
    )


def _of(group: str, node: xr.DataTree) -> Iterator[Line]:
    for name, values in node.data_vars.items():
        if values.dtype.kind != "f" or not values.size:
            continue
        if values.dims == ("step",):
            yield _line(f"{group}/{name}", values)
        elif set(values.dims) == {"step", "layer", "head"}:
            yield _line(f"{group}/{name}, highest of any head", strongest(values))


def _line(name: str, series: xr.DataArray) -> Line:
    first, last = (number(float(series[i])) for i in (0, -1))
    return Line(name, sparkline(series), first, last)
