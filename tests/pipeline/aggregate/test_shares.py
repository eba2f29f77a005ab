"""Shares of variance against statsmodels' regressions."""

import numpy as np
import statsmodels.api as sm

from pipeline.aggregate.shares import resampled_blocks, resampled_units, shares_of_variance

RNG = np.random.default_rng(7)


def rsquared(columns: list[np.ndarray], target: np.ndarray) -> float:
    return sm.OLS(target, sm.add_constant(np.concatenate(columns, axis=1))).fit().rsquared


def test_shares_are_those_of_ordinary_regressions() -> None:
    n = 300
    a, b, c = RNG.standard_normal((n, 1)), RNG.standard_normal((n, 2)), RNG.standard_normal((n, 1))
    a = a + 0.5 * b[:, :1]
    targets = np.stack([a[:, 0] + 2 * b[:, 1] + RNG.standard_normal(n), c[:, 0] + 9], axis=1)
    columns = {"a": a * 1e6 + 1e8, "b": b, "c": c}
    found = shares_of_variance(columns, targets, np.arange(n) // 3, np.zeros((0, 100)))
    for i, target in enumerate(targets.T):
        whole = rsquared([a, b, c], target)
        np.testing.assert_allclose(found.together[0, i], whole, rtol=1e-6)
        alone = [rsquared([one], target) for one in (a, b, c)]
        np.testing.assert_allclose(found.alone[0, i], alone, rtol=1e-6, atol=1e-9)
        without = [rsquared(pair, target) for pair in ([b, c], [a, c], [a, b])]
        np.testing.assert_allclose(found.unique[0, i], whole - np.array(without), atol=1e-6)
    assert np.isnan(found.alone[1:]).all()


def test_a_resample_is_the_regression_of_the_drawn_units() -> None:
    n = 60
    a, unit = RNG.standard_normal((n, 1)), np.arange(n) % 12
    target = a[:, 0] + RNG.standard_normal(n)
    weights = RNG.multinomial(12, np.full(12, 1 / 12), 2).astype(float)
    found = shares_of_variance({"a": a}, target[:, None], unit, weights)
    drawn = []
    for one in weights:
        rows = np.concatenate(
            [np.flatnonzero(unit == u) for u in range(12) for _ in range(int(one[u]))]
        )
        drawn.append(rsquared([a[rows]], target[rows]))
    own = rsquared([a], target)
    ends = np.quantile(drawn, [0.05, 0.95]) - (np.mean(drawn) - own)  # less their bias
    np.testing.assert_allclose(found.alone[:, 0, 0], [own, *ends])


def test_the_interval_of_pure_noise_holds_its_own_estimate() -> None:
    a, target = RNG.standard_normal((150, 8)), RNG.standard_normal((150, 1))
    weights = resampled_units(150, 100, RNG)
    share, low, high = shares_of_variance({"a": a}, target, np.arange(150), weights).alone[:, 0, 0]
    assert low <= share <= high


def test_intervals_hold_the_true_share() -> None:
    inside = 0
    for _ in range(100):
        a = RNG.standard_normal((120, 1))
        target = a + RNG.standard_normal((120, 1))  # a true share of one half
        weights = resampled_units(120, 100, RNG)
        found = shares_of_variance({"a": a}, target, np.arange(120), weights).alone[:, 0, 0]
        inside += found[1] <= 0.5 <= found[2]
    assert 80 <= inside <= 97  # 90% of 100, within three standard deviations


def test_a_target_without_variance_and_one_unit_are_undefined() -> None:
    a = RNG.standard_normal((10, 1))
    found = shares_of_variance(
        {"a": a}, np.ones((10, 1)), np.zeros(10, dtype=int), resampled_units(1, 50, RNG)
    )
    assert np.isnan(found.alone).all()


def test_blocks_are_drawn_within_runs() -> None:
    counts = resampled_blocks([9, 25, 1], 400, RNG)
    assert counts.shape == (400, 35)
    assert (counts[:, :9].sum(axis=1) == 9).all()
    assert (counts[:, 9:34].sum(axis=1) == 25).all()
    assert (counts[:, 34] == 1).all()
    # Of blocks of 5 of 25, neighbours in the middle are drawn together.
    middle = counts[:, 9 + 10 : 9 + 15]
    assert np.corrcoef(middle[:, 1], middle[:, 2])[0, 1] > 0.6
