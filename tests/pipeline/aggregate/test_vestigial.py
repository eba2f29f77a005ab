"""Series that rose and then fell beyond their noise."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.vestigial import peak_of, vestigial

STEPS = np.unique(np.geomspace(10, 100_000, 120).round().astype(int))
UP = 1 / (1 + (300 / STEPS) ** 6)
DOWN = 1 / (1 + (8000 / STEPS) ** 6)


def heads(*curves: np.ndarray, noise: float = 0.04) -> xr.Dataset:
    """Return a group in which each head's induction score is a noisy curve."""
    table = np.stack(curves, axis=1)[:, None]
    table = table + np.random.default_rng(0).normal(0, noise, table.shape)
    return xr.Dataset({"induction": (("step", "layer", "head"), table)},
                      {"step": STEPS, "layer": [0], "head": np.arange(len(curves))})  # fmt: skip


def flags(group: xr.Dataset) -> list[float]:
    """Return which series are vestigial."""
    return vestigial(xr.DataTree.from_dict({"scores": group}))["vestigial"].values.tolist()


def test_only_what_rises_and_falls_is_vestigial():
    curves = (UP - DOWN, UP, 1 - DOWN, 0 * UP, UP + DOWN, 1 - UP + DOWN, UP - 0.5 * DOWN)
    assert flags(heads(*curves)) == [1, 0, 0, 0, 0, 0, 1]


def test_peak_rise_and_fall_are_those_that_were_planted():
    found = vestigial(xr.DataTree.from_dict({"scores": heads(UP - 0.7 * DOWN, noise=0.01)}))
    assert float(found["rise"][0]) == pytest.approx(1, abs=0.03)
    assert float(found["fall"][0]) == pytest.approx(0.7, abs=0.03)
    assert float(found["fallen_share"][0]) == pytest.approx(0.7, abs=0.03)
    assert 300 < float(found["peak_step"][0]) < 8000
    assert np.isnan(found["formed"][0])


def test_a_peak_is_that_of_running_medians():
    # Medians of 3: 0, 0, 4, 5, 5, 2, 1.
    (found,) = peak_of(np.array([0.0, 0, 0, 4, 9, 5, 2, 1, 1]))
    assert (found.place, found.peak, found.rise, found.fall) == (4, 5, 5, 4)
    (above,) = peak_of(np.array([-3.0, -3, -3, 4, 9, 5, 2, -1, -1]), floor=1.0)
    assert (above.peak, above.rise, above.fall) == (5, 4, 4)


def test_a_rise_below_the_null_does_not_count():
    group = heads(0.2 * (UP - DOWN), 0.8 * (UP - DOWN), noise=0.005)
    bare = vestigial(xr.DataTree.from_dict({"scores": group}))
    assert bare["vestigial"].values.tolist() == [1, 1]
    group["induction_null"] = xr.full_like(group["induction"], 0.3)
    found = vestigial(xr.DataTree.from_dict({"scores": group}))
    assert found["vestigial"].values.tolist() == [0, 1]
    assert found["formed"].values.tolist() == [0, 1]
    assert float(found["rise"][1]) == pytest.approx(0.5, abs=0.02)


def test_frequencies_are_judged_and_other_dimensions_are_not():
    table = np.stack([UP - DOWN, UP], axis=1) + np.random.default_rng(1).normal(0, 0.02, (120, 2))
    group = xr.Dataset(
        {"embedding_norm": (("step", "frequency"), table),
         "by_parameter": (("step", "parameter"), table), "loss": ("step", table[:, 0])},
        {"step": STEPS, "frequency": [1, 2]},
    )  # fmt: skip
    found = vestigial(xr.DataTree.from_dict({"modular_addition": group}))
    assert found["frequency"].values.tolist() == [1, 2]
    assert found["vestigial"].values.tolist() == [1, 0]
    assert found["head"].values.tolist() == [-1, -1]


def test_short_and_undefined_series_are_left_out():
    group = heads(UP - DOWN, UP - DOWN)
    group["induction"][5, 0, 0] = np.nan
    found = vestigial(xr.DataTree.from_dict({"scores": group}))
    assert np.isnan(found["vestigial"][0]) and found["vestigial"][1] == 1
    assert found.attrs["left_out"] == 1
    short = vestigial(xr.DataTree.from_dict({"scores": group.isel(step=slice(0, None, 8))}))
    assert short.attrs["left_out"] == 2 and np.isnan(short["q"]).all()


def test_a_spike_is_no_peak():
    group = heads(UP, noise=0.02)
    group["induction"][60, 0, 0] += 100
    assert flags(group) == [0]


def test_noise_that_wanders_is_seldom_vestigial():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(STEPS), 40))
    for i in range(1, len(STEPS)):
        noise[i] = 0.7 * noise[i - 1] + np.sqrt(1 - 0.49) * noise[i]
    group = heads(*(0.2 * noise + UP[:, None]).T)
    found = vestigial(xr.DataTree.from_dict({"scores": group}), draws=199)
    assert found["vestigial"].mean() <= 0.05
