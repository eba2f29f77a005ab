"""Corners: planted ones are found, those of random walks and of smooth curves are not reported."""

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.loss_space import component_space
from pipeline.aggregate.two_lines import LEAST, fit_errors
from pipeline.errors import InputError

STEPS = 25 * np.arange(60)


def as_space(points: np.ndarray, run: str = "run") -> xr.Dataset:
    """Return the space of a trajectory that has no other dimensions than these."""
    moves = np.diff(points, axis=0)
    lengths = np.linalg.norm(moves, axis=1)
    with np.errstate(invalid="ignore"):
        cosines = (moves[1:] * moves[:-1]).sum(axis=1) / (lengths[1:] * lengths[:-1])
    angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
    return xr.Dataset(
        {
            "scores": (("checkpoint", "component"), points),
            "distance": ("checkpoint", [np.nan, *lengths]),
            "turning_angle": ("checkpoint", [np.nan, *angles, np.nan]),
        },
        {"run": ("checkpoint", [run] * len(points)), "step": ("checkpoint", STEPS[: len(points)])},
    )


def bent(noise: float, seed: int = 0) -> np.ndarray:
    """Return a trajectory that turns by 90 degrees at its 31st checkpoint, step 750."""
    i = np.arange(60.0)
    points = np.stack([np.minimum(i, 30), np.maximum(i - 30, 0)], axis=1)
    return points + noise * np.random.default_rng(seed).standard_normal(points.shape)


def test_a_planted_corner_is_found() -> None:
    found = find_corner(as_space(bent(0.3)), transition=(700, 800), simulations=200)
    whole = found.sel(window="whole")
    assert abs(float(whole["step"]) - 750) <= 25
    assert whole["low"] <= 750 <= whole["high"]
    assert float(whole["angle"]) == pytest.approx(90, abs=5)
    assert float(whole["p_walks"]) < 0.01 and float(whole["p_flipped"]) < 0.01
    assert found["coincides"] == 1
    assert found["false_alarm_share"] <= 0.1
    apart = find_corner(as_space(bent(0.3)), transition=(0, 300), simulations=200)
    assert apart["coincides"] == 0
    # Walks turn in the middle too.
    assert apart["coincides_by_chance"] < 0.2 < found["coincides_by_chance"] < 0.9


@pytest.mark.parametrize("dimensions", [2, 20, 50])
def test_random_walks_are_not_reported_more_often_than_stated(dimensions: int) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(20):
        walk = rng.standard_normal((40, dimensions)).cumsum(axis=0)
        losses = xr.DataArray(walk, {"step": STEPS[:40]}, ("step", "token"))
        found = find_corner(component_space({"run": losses}, 2), simulations=40)
        hits += bool(np.isfinite(found["step"].sel(window="whole")))
    assert hits <= 3  # of 20 at a level of 5%: at most 3 with a probability of 0.984


def test_a_corner_is_found_beside_noise_of_many_tokens() -> None:
    points = np.zeros((60, 500))
    points[:, :2] = bent(0.0)
    points += np.random.default_rng(5).normal(0, 1 / np.sqrt(500), points.shape)
    losses = xr.DataArray(points, {"step": STEPS}, ("step", "token"))
    whole = find_corner(component_space({"run": losses}), simulations=100).sel(window="whole")
    assert abs(float(whole["step"]) - 750) <= 25


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("turn", [np.pi / 2, np.pi])
def test_smooth_curves_have_no_corner(turn: float, noise: float) -> None:
    angle = np.linspace(0, turn, 60)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += noise * np.random.default_rng(2).standard_normal(points.shape)
    found = find_corner(as_space(points), transition=(700, 800), simulations=200)
    assert np.isnan(found["step"].sel(window="whole"))
    assert np.isnan(found["coincides"])


def test_the_halves_of_a_bend_in_the_middle_have_none() -> None:
    found = find_corner(as_space(bent(0.3)), simulations=200)
    assert found["window"].values.tolist() == ["whole", "first half", "last half"]
    assert np.isnan(found["step"].sel(window=["first half", "last half"])).all()


def test_a_straight_path_persists_and_a_random_one_does_not() -> None:
    straight = np.stack([np.arange(40.0), np.zeros(40)], axis=1)
    straight += 0.1 * np.random.default_rng(3).standard_normal(straight.shape)
    found = find_corner(as_space(straight), simulations=200)
    assert found["mean_cosine"] > 0.9 and found["mean_cosine_p"] < 0.01
    walk = np.random.default_rng(4).standard_normal((40, 2)).cumsum(axis=0)
    assert find_corner(as_space(walk), simulations=200)["mean_cosine_p"] > 0.05


def test_one_run_of_several_is_chosen() -> None:
    space = xr.concat([as_space(bent(0.3), "a"), as_space(bent(0.3), "b")], "checkpoint")
    with pytest.raises(InputError, match="runs a, b"):
        find_corner(space)
    alone = find_corner(as_space(bent(0.3)), simulations=50)
    xr.testing.assert_identical(find_corner(space, "b", simulations=50), alone)


def test_trajectories_without_corners_are_refused() -> None:
    with pytest.raises(InputError, match="at least 12"):
        find_corner(as_space(bent(0.3)[:11]))
    with pytest.raises(InputError, match="one point"):
        find_corner(as_space(np.ones((20, 2))))


def test_errors_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(6)
    walks = rng.standard_normal((3, 15, 2)).cumsum(axis=1)
    arcs = np.sort(rng.uniform(0, 4, (3, 15)), axis=1)
    smooth, lines = fit_errors(arcs, walks)
    for i, (x, walk) in enumerate(zip(arcs, walks, strict=True)):
        cubic = np.polynomial.polynomial.polyfit(x, walk, 3)
        left = walk - np.polynomial.polynomial.polyval(x, cubic).T
        assert smooth[i] == pytest.approx((left**2).sum())
        for j, place in enumerate(range(LEAST, 15 - LEAST)):
            columns = np.stack([x * 0 + 1, np.minimum(x, x[place]), np.maximum(x, x[place])], 1)
            expected = np.linalg.lstsq(columns, walk, rcond=None)[1].sum()
            assert lines[i, j] == pytest.approx(expected)
