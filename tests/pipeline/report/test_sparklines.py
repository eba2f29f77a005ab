"""Sparklines: the values of their bars."""

import numpy as np
import xarray as xr

from pipeline.report.sparklines import absolute_scale, overview, sparkline
from tests.pipeline.report import fake


def series(values: list[float], steps: list[int] | None = None) -> xr.DataArray:
    return xr.DataArray(values, {"step": steps or list(range(len(values)))}, "step")


def test_bars_go_from_the_bottom_to_the_top_of_the_scale() -> None:
    assert sparkline(series([0, 1, 2, 3, 4, 5, 6, 7]), (0, 7)) == "▁▂▃▄▅▆▇█"
    assert sparkline(series([8.0, 0.0, 4.0]), (0, 8)) == "█▁▅"
    assert sparkline(series([0.0, 0.2, 0.4]), (0, 1)) == "▁▂▄"
    assert sparkline(series([-1.0, 0.0, 1.0]), (-1, 1)) == "▁▅█"


def test_zeros_are_a_floor_and_the_undefined_a_gap() -> None:
    assert sparkline(series([0, 0, 0]), (0, 0)) == "▁▁▁"
    assert sparkline(series([3, 3, 3]), (0, 3)) == "███"
    assert sparkline(series([0, np.nan, 1]), (0, 1)) == "▁ █"
    assert sparkline(series([np.nan, np.nan]), (0, 0)) == "  "


def test_scales_contain_zero_and_are_fixed_for_scores() -> None:
    def scale(values: list[float], unit: str) -> tuple[float, float]:
        return absolute_scale(series(values).assign_attrs(units=unit))

    assert scale([0.01, 0.03], "1") == scale([0.2, 1.0], "1") == (0, 1)
    assert scale([-0.1, 0.2], "1") == (-1, 1)
    assert scale([0.2, 0.5], "nats") == (0, 0.5)
    assert scale([3.0, 4.5], "1") == (0, 4.5)
    assert scale([-1.1, -0.2], "nats") == (-1.1, 0)
    assert scale([np.nan], "nats") == (0, 0)


def test_two_scores_are_drawn_on_one_scale(monkeypatch) -> None:
    scores = fake.head_scores(np.array([0, 900, 2000]))
    for name in ("induction", "first_token"):
        scores[name].attrs["units"] = "1"
    monkeypatch.setattr(
        "pipeline.report.sparklines.open_run", lambda _: fake.run_of(head_scores=scores)
    )
    lines = {line.name.split(",")[0]: line for line in overview("")}
    induction, first = lines["head_scores/induction"], lines["head_scores/first_token"]
    assert induction.scale == first.scale == "0 to 1.00"
    assert induction.chart == "▁▅█" and first.chart == "▁▁▁"


def test_many_steps_are_thinned_evenly_in_their_logarithm() -> None:
    steps = list(range(10_000))
    drawn = sparkline(series([float(np.log1p(step)) for step in steps], steps), (0, np.log(10_000)))
    assert len(drawn) == 32
    assert list(drawn) == sorted(drawn)
    # Values even in the logarithm, drawn evenly in it: each of the eight bars equally often.
    assert max(drawn.count(bar) for bar in set(drawn)) <= 6
