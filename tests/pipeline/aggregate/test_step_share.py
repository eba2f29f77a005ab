"""Shares of series with a step, and the null series beside them."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.null_series import describe, random_walks, resampled
from pipeline.aggregate.step_share import ALL, BEYOND_NONE, WITH_PATTERN, step_shares, wilson
from pipeline.aggregate.transitions import scan

STEPS = np.unique(np.geomspace(10, 100_000, 120).round().astype(int))


def scores(count: int, kind: str, seed: int) -> np.ndarray:
    """Return series of one kind, of size 1 with noise of 0.03 (dims: step, head)."""
    rng = np.random.default_rng(seed)
    at = 10 ** rng.uniform(2.3, 3.7, count)
    curves = {
        "step": lambda s: 1 / (1 + (s / STEPS[:, None]) ** 10),
        "smooth": lambda s: 1 - (1 + STEPS[:, None] / s) ** -0.5,
        "flat": lambda s: np.zeros((len(STEPS), count)),
    }
    return curves[kind](at) + rng.normal(0, 0.03, (len(STEPS), count))


def run(*heads: np.ndarray, null: float | None = None) -> xr.DataTree:
    """Return a run whose heads have these induction scores."""
    table = np.concatenate(heads, axis=1)[:, None]
    group = xr.Dataset(
        {"induction": (("step", "layer", "head"), table)},
        {"step": STEPS, "layer": [0], "head": np.arange(table.shape[2])},
    )
    if null is not None:
        group["induction_null"] = xr.full_like(group["induction"], null)
    return xr.DataTree.from_dict({"head_scores": group})


def test_steps_and_smooth_curves_are_counted_and_flat_series_are_not():
    found = step_shares(run(scores(6, "step", 0), scores(4, "smooth", 1), scores(5, "flat", 2)),
                        nulls=40)  # fmt: skip
    own = found.sel(which=ALL, kind="series")
    assert (int(own["sudden_count"]), int(own["smooth_count"])) == (6, 4)
    assert float(own["share"]) == 0.6
    assert (float(own["low"]), float(own["high"])) == pytest.approx(wilson(6, 10))
    assert found["widths"].sel(which=ALL).notnull().sum() == 6
    assert float(found["share"].sel(which=ALL, kind="smooth nulls")) < 0.1
    assert float(found["share"].sel(which=ALL, kind="steps resampled")) > 0.9
    assert all(of.attrs["definition"] for of in found.data_vars.values())


def test_only_heads_above_their_null_have_a_pattern():
    found = step_shares(run(scores(3, "step", 0), 0.2 * scores(4, "step", 1), null=0.1), nulls=10)
    counts = found["sudden_count"].sel(kind="series")
    assert int(counts.sel(which=ALL)) == 7 and int(counts.sel(which=WITH_PATTERN)) == 3
    without = step_shares(run(scores(3, "step", 0)), nulls=10)
    assert np.isnan(without["share"].sel(which=WITH_PATTERN, kind="series"))


def test_of_smooth_curves_alone_nothing_is_claimed():
    found = step_shares(run(scores(8, "smooth", 3)), nulls=20)
    assert found.attrs["verdict"] == BEYOND_NONE


def test_a_run_without_heads_has_no_shares():
    bare = xr.DataTree.from_dict({"token_loss": xr.Dataset({"mean": ("step", STEPS * 1.0)},
                                                           {"step": STEPS})})  # fmt: skip
    found = step_shares(bare)
    assert found["share"].isnull().all() and found.attrs["verdict"] == BEYOND_NONE


def test_wilson_intervals_are_those_of_the_formula():
    z, p, n = 1.959963985, 0.6, 10
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(6, 10) == pytest.approx((centre - half, centre + half))
    assert np.isnan(wilson(0, 0)).all()


def test_a_series_is_its_curve_and_its_residuals():
    for about in describe(STEPS, scores(3, "step", 4).T):
        assert about.residuals.std() == pytest.approx(0.03, rel=0.3)
        left = about.values - about.curve
        assert left @ about.residuals == pytest.approx(
            np.linalg.norm(left) * np.linalg.norm(about.residuals)
        )
        (smooth,) = scan(STEPS, about.smooth[None])
        assert smooth.shape != "sudden"


def test_many_checkpoints_are_described_at_all_of_them():
    steps = 5 * np.arange(2000)
    values = 1 / (1 + (1000 / np.maximum(steps, 1)) ** 10)
    noise = np.random.default_rng(0).normal(0, 0.05, len(steps))
    (about,) = describe(steps, (values + noise)[None])
    assert about.residuals.shape == steps.shape
    assert about.residuals.std() == pytest.approx(0.05, rel=0.1)


def test_resampled_residuals_come_in_blocks():
    rng = np.random.default_rng(0)
    residuals = rng.choice([-1.0, 1.0], 100)
    blocks = {tuple(residuals[i : i + 10]) for i in range(91)}
    drawn = resampled(residuals, 50, rng).reshape(-1, 10)
    found = [tuple(one) for one in drawn.round(9)]
    assert set(found) <= blocks and len(set(found)) > 60


def test_resampled_noise_grows_where_the_residuals_do():
    rng = np.random.default_rng(0)
    growing = np.geomspace(0.1, 10, 400)
    drawn = resampled(growing * rng.standard_normal(400), 300, rng)
    assert drawn.std(axis=0)[40:-40] == pytest.approx(growing[40:-40], rel=0.6)
    assert not resampled(np.zeros(20), 3, rng).any()


def test_random_walks_have_moves_of_one_size():
    walks = random_walks(STEPS, 400, np.random.default_rng(0))
    assert np.diff(walks, axis=1).std(axis=0) == pytest.approx(1, abs=0.2)
