"""Components of planted losses are explained by what was planted."""

import numpy as np
import pytest
import statsmodels.api as sm
import xarray as xr

from pipeline.aggregate.axes import _f_test, explain_axes
from pipeline.aggregate.loss_space import loss_space
from pipeline.aggregate.regressors import checkpoint_series
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group, sigmoid

SEQUENCES, POSITIONS, CHECKPOINTS = 24, 40, 50
TOKENS = np.random.default_rng(0).integers(0, 12, (SEQUENCES, POSITIONS + 1))
FEATURES = token_features(TOKENS)
FALL = 1 - sigmoid(np.linspace(0, 1, CHECKPOINTS), 0.5, 0.3)


def planted(overall: float, pairs: float, noise: float = 0.05, seed: int = 1) -> xr.Dataset:
    """Return losses that fall by `overall` on all tokens, and by `pairs` on repeated pairs."""
    rng = np.random.default_rng(seed)
    direction = overall + pairs * (FEATURES["repetition"].values == 2)
    losses = 3 + FALL[:, None, None] * direction
    losses = losses + noise * rng.standard_normal((CHECKPOINTS, SEQUENCES, POSITIONS))
    return as_group(losses.astype(np.float32), early_late=(3, 30))


def explained(group: xr.Dataset, **options: int) -> xr.Dataset:
    groups = {"run": group}
    return explain_axes(groups, loss_space(groups), FEATURES, resamples=100, **options)


def test_a_uniform_fall_is_overall_loss_in_scores_and_loadings() -> None:
    found = explained(planted(2.0, 0.0))
    assert found["verdict"].sel(of=["scores", "loadings"]).values.tolist() == ["holds", "holds"]
    assert found["mean_loss_share"] > 0.95
    # What is left is noise over 49 components.
    assert found["first_share_without_mean"] < 0.1


def test_a_fall_of_repeated_pairs_is_so_in_scores_only() -> None:
    found = explained(planted(0.0, 2.0))
    assert found["verdict"].values.tolist() == ["holds", "does not hold"]
    first = found.sel(component=1)
    share = first["alone"].sel(of="loadings", feature="repetition")
    assert share > 0.95
    # The squared cosine of an indicator and the vector of ones is the share of its tokens.
    repeated = float((FEATURES["repetition"] == 2).mean())
    cosine = first["alone"].sel(of="loadings", feature="mean_loss")
    assert float(cosine) == pytest.approx(repeated, abs=0.02)
    low, high = (
        first[f"alone_{end}"].sel(of="loadings", feature="mean_loss") for end in ("low", "high")
    )
    assert low < cosine < high


def test_near_the_threshold_nothing_is_decided() -> None:
    # cos^2 of the direction 1 + a on a share r of tokens: (1 + ra)^2 / (1 + 2ra + ra^2)
    r = float((FEATURES["repetition"] == 2).mean())
    grid = np.linspace(0, 3, 3001)
    a = grid[np.argmin(np.abs((1 + r * grid) ** 2 / (1 + 2 * r * grid + r * grid**2) - 0.9))]
    found = explained(planted(1.0, float(a), noise=0.01))
    assert found["verdict"].sel(of="loadings") == "undecided"


def test_series_are_slopes_and_differences_of_mean_losses() -> None:
    group = planted(1.0, 0.5)
    space = loss_space({"run": group})
    counted = np.ones((SEQUENCES, POSITIONS), dtype=bool)
    series = checkpoint_series({"run": group}, {"run": group["loss"]}, space, FEATURES, counted)
    losses = group["loss"].values.astype(np.float64)
    np.testing.assert_allclose(series["mean_loss"][:, 0], losses.mean(axis=(1, 2)))
    np.testing.assert_allclose(series["in_context_score"][:, 0], group["in_context_score"])
    kind = FEATURES["repetition"].values
    new = losses[:, kind == 0].mean(axis=1)
    for column in (1, 2):
        np.testing.assert_allclose(
            series["repetition"][:, column - 1], losses[:, kind == column].mean(axis=1) - new
        )
    frequency = FEATURES["log_frequency"].values.ravel()
    slopes = np.polyfit(frequency, losses.reshape(CHECKPOINTS, -1).T, 1)[0]
    np.testing.assert_allclose(series["log_frequency"][:, 0], slopes)


def test_random_directions_resemble_a_dominant_component_too() -> None:
    found = explained(planted(0.0, 2.0)).sel(component=1, of="scores")["alone_p"]
    # Mean loss sums up 3% of noise and all of the fall; frequency has little to do with it.
    assert found.sel(feature="mean_loss") < 0.05
    assert found.sel(feature="log_frequency") > 0.05


def test_loadings_of_noise_are_explained_by_no_feature() -> None:
    """P-values of F tests on noise are uniform: of 5 features on 3 components, few are small."""
    found = explained(planted(0.0, 0.0)).sel(of="loadings")["alone_p"].values
    assert (found < 0.01).sum() <= 1 and (found[:, 1:] > 0.05).mean() > 0.7


def test_the_f_test_of_loadings_is_that_of_a_regression() -> None:
    """Compare with statsmodels: a regression on 3 columns, and one on a constant alone."""
    rng = np.random.default_rng(0)
    columns, target = rng.standard_normal((40, 3)), rng.standard_normal(40) + 0.5
    fit = sm.OLS(target, sm.add_constant(columns)).fit()
    cosine = target.sum() ** 2 / len(target) / (target**2).sum()
    p = _f_test(np.array([[cosine, fit.rsquared]]), np.array([1, 3]), 40)
    alone = sm.OLS(target, np.ones(40)).fit()
    assert p[0] == pytest.approx([alone.pvalues[0], fit.f_pvalue])


def test_padding_and_left_out_checkpoints_do_not_matter() -> None:
    group = planted(0.0, 2.0)
    losses = group["loss"].values.copy()
    losses[:, 3, 20:] = np.nan
    losses[10, 0, 0] = np.inf
    padded = as_group(losses, early_late=(3, 30))
    padded["in_context_score"] = group["in_context_score"]
    found = explained(padded).sel(component=1, of="loadings")
    assert found["alone"].sel(feature="repetition") > 0.95
    assert np.isfinite(found["unique"].sel(feature="repetition"))


def test_features_of_another_input_are_refused() -> None:
    group = planted(1.0, 0.0)
    with pytest.raises(InputError, match="expected features of 24 sequences"):
        explain_axes({"run": group}, loss_space({"run": group}), FEATURES.isel(sequence=slice(5)))


def test_results_repeat_and_carry_units() -> None:
    group = planted(1.0, 1.0)
    first = explained(group)
    xr.testing.assert_identical(first, explained(group))
    assert all("units" in first[name].attrs for name in first.data_vars)
    assert first.sizes == {"of": 2, "component": 3, "feature": 6}


def test_sequences_that_end_before_the_late_token_have_no_in_context_score() -> None:
    group = planted(1, 1).assign_attrs(parameters={"early_token": 3, "late_token": POSITIONS + 1})
    assert np.isfinite(explained(group)["mean_loss_share"])
    assert "in_context_score" not in explained(group)["feature"]


def test_losses_that_never_change_are_refused() -> None:
    group = as_group(np.ones((CHECKPOINTS, SEQUENCES, POSITIONS)), early_late=(3, 30))
    with pytest.raises(InputError, match="the same losses"):
        explained(group)
