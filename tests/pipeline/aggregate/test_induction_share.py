"""Shares of induction heads over models of several sizes, and the series that are compared."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from pipeline.aggregate.induction_share import RISES, UNKNOWN, induction_shares
from pipeline.aggregate.named_series import named_series
from pipeline.aggregate.step_share import wilson


def scores(heads: int, strong: int, excess: float = 0.6) -> xr.Dataset:
    """Return head scores in which some heads exceed a null of 0.1 at the last step only."""
    table = np.full((2, 1, heads), 0.1)
    table[1, 0, :strong] += excess
    null = np.full(table.shape, 0.1)
    dims = ("step", "layer", "head")
    return xr.Dataset({"induction": (dims, table), "induction_null": (dims, null)},
                      {"step": [0, 10], "layer": [0], "head": np.arange(heads)})  # fmt: skip


def test_shares_are_counts_over_heads_in_order_of_size():
    found = induction_shares({"large": scores(20, 5), "small": scores(8, 2)})
    assert found["run"].values.tolist() == ["small", "large"]
    assert found["count"].sel(threshold=0.3).values.tolist() == [2, 5]
    assert found["share"].sel(threshold=0.3).values.tolist() == [0.25, 0.25]
    at = found.sel(run="large", threshold=0.3)
    assert (float(at["low"]), float(at["high"])) == pytest.approx(wilson(5, 20))
    assert float(found["spread"].sel(threshold=0.3)) == 0
    assert found.attrs["verdict"] == UNKNOWN


def test_a_trend_is_that_of_cochran_and_armitage():
    counts, heads, sizes = np.array([5, 20, 40]), np.array([50, 60, 70]), np.array([1e6, 1e7, 1e8])
    runs = {f"r{i}": scores(n, k) for i, (k, n) in enumerate(zip(counts, heads, strict=True))}
    given = {f"r{i}": size for i, size in enumerate(sizes)}
    found = induction_shares(runs, given)
    x, total, mean = np.log10(sizes), heads.sum(), counts.sum() / heads.sum()
    centred = x - (heads * x).sum() / total
    # The variance is the hypergeometric one: total / (total - 1) times that of the binomial.
    variance = mean * (1 - mean) * (heads * centred**2).sum() * total / (total - 1)
    z = (centred * counts).sum() / np.sqrt(variance)
    assert found["p_trend"].values == pytest.approx(2 * norm.sf(z), rel=1e-9)
    assert found.attrs["verdict"] == RISES and (found["trend"] == 1).all()


def test_a_trend_at_some_thresholds_only_is_none():
    runs = {"a": scores(60, 3), "b": scores(60, 40, 0.25)}
    found = induction_shares(runs, {"a": 1e6, "b": 1e8})
    assert float(found["p_trend"].sel(threshold=0.2)) < 0.01
    assert found.attrs["verdict"] == UNKNOWN


def test_runs_without_a_null_and_undefined_heads_are_left_out():
    broken = scores(4, 4)
    broken["induction"][1, 0, 0] = np.nan
    found = induction_shares({"a": broken, "b": scores(4, 1).drop_vars("induction_null")})
    assert found.attrs["left_out"] == ["b"]
    assert found["heads"].values.tolist() == [3] and (found["share"] == 1).all()
    assert np.isnan(found["spread"]).all()
    assert induction_shares({}).sizes["run"] == 0


def test_the_strongest_heads_and_their_composition_are_named():
    rng = np.random.default_rng(0)
    dims = ("step", "layer", "head")
    pairs = ("step", "layer_from", "head_from", "layer_to", "head_to")
    induction, previous = rng.uniform(0, 0.1, (2, 3, 2, 2))
    induction[-1, 1, 0], previous[-1, 0, 1] = 0.9, 0.8
    k = rng.uniform(0, 1, (3, 2, 2, 2, 2))
    heads = xr.Dataset(
        {"induction": (dims, induction), "induction_null": (dims, 0 * induction),
         "previous_token": (dims, previous), "uniform_null": ("step", np.zeros(3))},
        {"step": [0, 5, 9], "layer": [0, 1], "head": [0, 1]},
    )  # fmt: skip
    composition = xr.Dataset(
        {"k": (pairs, k), "k_baseline": (pairs, 0 * k + 0.5)},
        {"step": [0, 5, 9]} | {dim: [0, 1] for dim in pairs[1:]},
    )
    run = xr.DataTree.from_dict({"head_scores": heads, "composition": composition})
    found, missing = named_series(run)
    assert list(found) == ["induction head L1H0", "previous-token head L0H1",
                           "K-composition L0H1 to L1H0"]  # fmt: skip
    assert found["induction head L1H0"].values.tolist() == induction[:, 1, 0].tolist()
    expected = k[:, 0, 1, 1, 0] - 0.5
    assert found["K-composition L0H1 to L1H0"].values.tolist() == expected.tolist()
    assert missing == {"mean loss": "it is not stored", "in-context score": "it is not stored"}


def test_a_head_below_the_threshold_is_not_named():
    found, missing = named_series(xr.DataTree.from_dict({"head_scores": scores(3, 3, 0.2)}))
    assert not found and "0.3 above its null" in missing["induction head"]
    bare = scores(3, 3).drop_vars("induction_null")
    _, missing = named_series(xr.DataTree.from_dict({"head_scores": bare}))
    assert missing["induction head"] == "it is not stored with its null"


def test_a_model_without_heads_has_no_head_to_compare():
    none = scores(3, 3, 0.2).isel(layer=slice(0))
    _, missing = named_series(xr.DataTree.from_dict({"head_scores": none}))
    assert missing["induction head"] == "the model has no heads"
