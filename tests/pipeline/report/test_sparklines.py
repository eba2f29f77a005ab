"""Sparklines: the values of their bars."""

import numpy as np
import xarray as xr

from pipeline.report.sparklines import sparkline


def series(values: list[float], steps: list[int] | None = None) -> xr.DataArray:
    return xr.DataArray(values, {"step": steps or list(range(len(values)))}, "step")


def test_bars_go_from_the_lowest_to_the_highest_value() -> None:
    assert sparkline(series([0, 1, 2, 3, 4, 5, 6, 7])) == "▁▂▃▄▅▆▇█"
    assert sparkline(series([8.0, 0.0, 4.0])) == "█▁▅"


def test_a_constant_is_a_floor_and_the_undefined_a_gap() -> None:
    assert sparkline(series([3, 3, 3])) == "▁▁▁"
    assert sparkline(series([0, np.nan, 1])) == "▁ █"
    assert sparkline(series([np.nan, np.nan])) == "  "


def test_many_steps_are_thinned_evenly_in_their_logarithm() -> None:
    steps = list(range(10_000))
    drawn = sparkline(series([float(np.log1p(step)) for step in steps], steps))
    assert len(drawn) == 32
    assert list(drawn) == sorted(drawn)
    # Values even in the logarithm, drawn evenly in it: each of the eight bars equally often.
    assert max(drawn.count(bar) for bar in set(drawn)) <= 6
