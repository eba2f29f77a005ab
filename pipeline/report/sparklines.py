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
    """One quantity over the training run.

    chart: one character per step, at most 32. scale: the values at its bottom and its top.
    """

    name: str
    chart: str
    scale: str
    first: str
    last: str


def overview(store_uri: str) -> list[Line]:
    """Return a line for every scalar variable of a store, and every head score's maximum."""
    return [line for name, node in open_run(store_uri).children.items() for line in _of(name, node)]


def absolute_scale(series: xr.DataArray) -> tuple[float, float]:
    """Return a scale with 0 in it, on which charts of the same quantity can be compared.

    Pure numbers within [0, 1] or [-1, 1], as scores of heads are, have all of that as their scale;
    other quantities reach from 0, or their lowest value if that is below, to their highest or 0.
    """
    values = series.values[np.isfinite(series.values)].astype(np.float64)
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    unit = series.attrs.get("units", series.attrs.get("unit"))
    if unit == "1" and low >= -1 and high <= 1:
        return (-1.0 if low < 0 else 0.0), 1.0
    return float(low), float(high)


def sparkline(series: xr.DataArray, scale: tuple[float, float]) -> str:
    """Return `series` (dims: step) as bars on a scale, whose values are the lowest and full bar.

    Undefined values are gaps. Of more steps than fit, those evenly spaced in log(1 + step).
    """
    values = series.values[kept_indices(series["step"].values, _WIDTH)].astype(np.float64)
    defined = np.isfinite(values)
    if not defined.any():
        return " " * len(values)
    low, high = scale
    # Zeros have a scale without extent, and are drawn at the bottom instead of 0 / 0.
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return "".join(
        _BARS[int(np.clip(one * len(_BARS), 0, len(_BARS) - 1))] if ok else " "
        for one, ok in zip(share, defined, strict=True)
    )


def _of(group: str, node: xr.DataTree) -> Iterator[Line]:
    for name, values in node.data_vars.items():
        if values.dtype.kind != "f" or not values.size:
            continue
        if values.dims == ("step",):
            yield _line(f"{group}/{name}", values)
        elif set(values.dims) == {"step", "layer", "head"}:
            highest = strongest(values).assign_attrs(values.attrs)  # its unit
            yield _line(f"{group}/{name}, highest of any head", highest)


def _line(name: str, series: xr.DataArray) -> Line:
    first, last = (number(float(series[i])) for i in (0, -1))
    scale = absolute_scale(series)
    return Line(name, sparkline(series, scale), " to ".join(map(number, scale)), first, last)
