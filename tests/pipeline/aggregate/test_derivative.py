"""Derivatives by log tokens: exact for lines, as weighted regressions, with intervals that hold."""

import numpy as np
import pytest
import statsmodels.api as sm

from pipeline.aggregate.derivative import loss_derivative
from pipeline.aggregate.derivatives_by_size import compare_derivatives
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group

STEPS = np.array([0, 1, 2, 4, 8, 16, *range(25, 1000, 25)])
TOKENS = 2048.0 * STEPS


def group_of(
    mean: np.ndarray, noise: float = 0.0, seed: int = 0, sequences: int = 20, **about: object
):
    """Return losses whose sequences differ by a constant each, so that slopes do not."""
    rng = np.random.default_rng(seed)
    losses = mean[:, None, None] + rng.standard_normal((1, sequences, 4))
    losses = losses + noise * rng.standard_normal((len(mean), 1, 1))
    return as_group(losses, **{"steps": STEPS, "tokens_seen": TOKENS, **about}, early_late=(1, 2))


def test_a_line_in_log_tokens_has_its_slope_everywhere() -> None:
    found = loss_derivative(group_of(9 - 0.7 * np.log(TOKENS + (STEPS == 0))))
    np.testing.assert_allclose(found["derivative"], -0.7)
    np.testing.assert_allclose(found["low"], -0.7, atol=1e-6)
    assert found.attrs["axis"] == "tokens" and found.attrs["left_out"] == [0]
    assert found["bandwidth"].values.tolist() == [0.04, 0.08, 0.16]
    assert found.sizes["step"] == len(STEPS) - 1


def test_tokens_that_are_unknown_leave_steps() -> None:
    seen = TOKENS.copy()
    seen[5] = np.nan
    mean = 3 - 0.5 * np.log(np.maximum(STEPS, 1))
    found = loss_derivative(group_of(mean, tokens_seen=seen))
    np.testing.assert_allclose(found["derivative"], -0.5)
    assert (
        found.attrs["axis"] == "steps" and "log of steps" in found["derivative"].attrs["definition"]
    )


def test_each_value_is_a_weighted_regression() -> None:
    mean = (
        5 - np.sqrt(np.log(TOKENS + 1)) + 0.1 * np.random.default_rng(1).standard_normal(len(STEPS))
    )
    group = group_of(mean)
    found = loss_derivative(group, bandwidth=0.3).sel(bandwidth=0.3)
    x = np.log(TOKENS[1:])
    for i in (0, 10, 30, len(x) - 1):
        # Widened to the distance of the fifth nearest, itself among them.
        h = max(0.3, np.sort(np.abs(x - x[i]))[4])
        assert float(found["bandwidth_used"][i]) == pytest.approx(h)
        weights = np.exp(-(((x - x[i]) / h) ** 2) / 2)
        y = group["loss"].values[1:].mean(axis=(1, 2))
        slope = sm.WLS(y, sm.add_constant(x), weights).fit().params[1]
        assert float(found["derivative"][i]) == pytest.approx(slope)


def test_the_error_over_sequences_is_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(2)
    slopes = -1 + 0.3 * rng.standard_normal(30)
    losses = 5 + slopes[None, :, None] * np.log(TOKENS + 1)[:, None, None] + np.zeros((1, 1, 4))
    group = as_group(losses, STEPS, TOKENS, early_late=(1, 2))
    found = loss_derivative(group)["sequence_error"].values[1, 20]
    drawn = []
    for _ in range(60):
        resampled = loss_derivative(group.isel(sequence=rng.integers(0, 30, 30)))
        drawn.append(resampled["derivative"].values[1, 20])
    assert found == pytest.approx(slopes.std(ddof=1) / np.sqrt(30), rel=1e-3)
    assert found == pytest.approx(np.std(drawn), rel=0.35)


def test_intervals_hold_the_truth_where_there_is_no_bias() -> None:
    mean, inside = 9 - 0.7 * np.log(TOKENS + 1), []
    for seed in range(40):
        found = loss_derivative(group_of(mean, 0.02, seed)).isel(bandwidth=1, step=slice(5, -3))
        inside.append((found["low"] <= -0.7) & (found["high"] >= -0.7))
    assert 0.82 <= np.mean(inside) <= 0.96


def test_a_wide_bandwidth_lowers_the_peak_of_a_sudden_fall() -> None:
    x = np.log(TOKENS + 1)
    mean = 4 - 2 / (1 + np.exp(-(x - x[38]) / 0.05))
    peak = loss_derivative(group_of(mean))["derivative"].min("step").values
    assert peak[0] < peak[1] < peak[2] < -1


def test_checkpoints_that_are_not_finite_are_left_out_and_padding_is_not() -> None:
    group = group_of(9 - 0.7 * np.log(TOKENS + 1))
    group["loss"][7, 0, 0] = np.nan
    group["loss"][:, 1, 2:] = np.nan
    group["loss"][:, 2] = np.nan
    found = loss_derivative(group)
    assert found.attrs["left_out"] == [0, int(STEPS[7])]
    assert np.isfinite(found["derivative"]).all()
    assert found.attrs["sequences"] == 19
    mean = group["loss"].mean(("sequence", "position")).values  # over all tokens
    x = np.log(np.maximum(TOKENS, 1))
    kept = np.delete(np.arange(len(x)), [0, 7])
    h = max(0.08, np.sort(np.abs(x[kept] - x[40]))[4])
    weights = np.exp(-(((x[kept] - x[40]) / h) ** 2) / 2)
    slope = sm.WLS(mean[kept], sm.add_constant(x[kept]), weights).fit().params[1]
    assert float(found["derivative"].sel(bandwidth=0.08, step=STEPS[40])) == pytest.approx(slope)
    with pytest.raises(InputError, match="at least 5"):
        loss_derivative(group.isel(step=slice(0, 5)))


def test_order_of_sizes_before_and_after_a_step() -> None:
    x = np.log(TOKENS + 1)
    at = np.log(2048.0 * 500)
    slopes = {"small": (-0.2, -0.6), "middle": (-0.3, -0.5), "large": (-0.4, -0.4)}
    groups = {
        name: group_of(9 + before * np.minimum(x - at, 0) + after * np.maximum(x - at, 0), 0.002)
        for name, (before, after) in slopes.items()
    }
    sizes = {"small": 1e6, "middle": 1e7, "large": 1e8}
    found = compare_derivatives(groups, sizes, step=500)
    np.testing.assert_allclose(found["derivative"], list(slopes.values()), atol=0.03)
    assert found["kendall_tau"].values.tolist() == pytest.approx([-1, 1])
    # All 3! orders are alike under the null: 2 of 6 are as extreme.
    np.testing.assert_allclose(found["kendall_p"], 1 / 3)
    np.testing.assert_allclose(found["difference"], [-0.2, 0.2], atol=0.05)
    assert (found["difference_error"] < 0.02).all()


def test_what_lies_between_two_steps_is_left_out() -> None:
    steps = np.unique(np.geomspace(20, 5000, 120).round().astype(int))
    x = np.log(2048.0 * steps)
    a, b = (np.log(2048.0 * at) for at in (400, 600))
    about = {"steps": steps, "tokens_seen": 2048.0 * steps}
    # Steep between steps 400 and 600 alone; two runs of each size.
    fall = 9 - 0.1 * x - 4 * np.clip(x - a, 0, b - a)
    groups = {f"{size}-{seed}": group_of(fall - size * 0.1 * x, 0.001, seed, **about)
              for size in (1, 2) for seed in (0, 1)}  # fmt: skip
    sizes = {name: float(name[0]) for name in groups}
    found = compare_derivatives(groups, sizes, step=(200, 1200))
    np.testing.assert_allclose(found["derivative"].values[::2], [[-0.2] * 2, [-0.3] * 2], atol=0.02)
    np.testing.assert_allclose(found["difference"], -0.1, atol=0.02)
    assert compare_derivatives(groups, sizes, step=450)["derivative"].values.max() < -0.35
    equal = compare_derivatives(groups, dict.fromkeys(groups, 1.0), step=(200, 1200))
    assert np.isnan(equal["kendall_tau"]).all() and np.isnan(equal["difference"]).all()


def test_runs_that_cannot_be_compared_are_refused() -> None:
    mean = 9 - 0.7 * np.log(TOKENS + 1)
    a, b = group_of(mean), group_of(mean, tokens_seen=4096.0 * STEPS)
    sizes = {"a": 1.0, "b": 2.0}
    with pytest.raises(InputError, match="different numbers of tokens"):
        compare_derivatives({"a": a, "b": b}, sizes, 500)
    with pytest.raises(InputError, match="some of the runs"):
        compare_derivatives({"a": a, "b": group_of(mean, tokens_seen=None)}, sizes, 500)
    with pytest.raises(InputError, match="no size of b"):
        compare_derivatives({"a": a, "b": a}, {"a": 1.0}, 500)
    with pytest.raises(InputError, match="not within"):
        compare_derivatives({"a": a, "b": a}, sizes, 5000)
    with pytest.raises(InputError, match="two runs"):
        compare_derivatives({"a": a}, sizes, 500)
