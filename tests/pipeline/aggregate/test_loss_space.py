"""Principal components of losses against a singular value decomposition of the whole matrix."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate import blocks
from pipeline.aggregate.loss_space import component_space, loadings, loss_space
from pipeline.errors import InputError
from tests.pipeline.aggregate.losses import as_group

RNG = np.random.default_rng(5)


def drawn(checkpoints: int = 12, sequences: int = 7, positions: int = 9) -> np.ndarray:
    """Draw losses with components of unlike sizes."""
    shape = (checkpoints, sequences, positions)
    trend = np.linspace(2, 0, checkpoints)[:, None, None] * RNG.standard_normal(shape[1:])
    return (5 + trend + 0.3 * RNG.standard_normal(shape)).astype(np.float32)


def by_svd(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, loadings and shares of rows [checkpoint, token], signs by the first score."""
    u, s, v = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    u, s, v = u[:, :-1], s[:-1], v[:-1]  # centred, the last is nothing
    signs = np.where(u[0] < 0, -1, 1)
    root = np.sqrt(rows.shape[1])
    return u * s * signs / root, v * signs[:, None] * root, s**2 / (s**2).sum()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks so small that there are many of them."""
    monkeypatch.setattr(blocks, "_READ", 250)
    monkeypatch.setattr(blocks, "_AT_ONCE", 64)
    monkeypatch.setattr(blocks, "_WAVE", 2)


@pytest.mark.usefixtures("small_blocks")
def test_components_are_those_of_a_singular_value_decomposition() -> None:
    losses = drawn()
    group = as_group(losses)
    space = loss_space({"run": group}, components=20)
    found = loadings({"run": group["loss"]}, space)
    scores, vectors, shares = by_svd(losses.reshape(12, -1).astype(np.float64))
    np.testing.assert_allclose(space["share"], shares, rtol=1e-9)
    np.testing.assert_allclose(space["scores"], scores, atol=1e-9)
    np.testing.assert_allclose(found.values.reshape(11, -1), vectors, atol=1e-8)
    assert space["share"].sum() == pytest.approx(1)
    assert space.attrs["tokens"] == 63


@pytest.mark.usefixtures("small_blocks")
def test_runs_on_the_same_tokens_share_one_space() -> None:
    a, b = drawn(6), drawn(5)
    space = loss_space({"a": as_group(a), "b": as_group(b, steps=[0, 2, 4, 8, 16])}, components=4)
    scores, _, shares = by_svd(np.concatenate([a, b]).reshape(11, -1).astype(np.float64))
    np.testing.assert_allclose(space["scores"], scores[:, :4], atol=1e-9)
    np.testing.assert_allclose(space["share"], shares[:4])
    assert space["run"].values.tolist() == ["a"] * 6 + ["b"] * 5
    assert space["step"].values[6:].tolist() == [0, 2, 4, 8, 16]
    # No displacement leads from one run to another.
    assert np.isnan(space["distance"].values[[0, 6]]).all()
    assert np.isnan(space["turning_angle"].values[[0, 5, 6, 10]]).all()


def test_runs_on_different_tokens_are_refused() -> None:
    other = as_group(drawn(), digest="b" * 64)
    with pytest.raises(InputError, match="different inputs"):
        loss_space({"a": as_group(drawn()), "b": other})
    with pytest.raises(InputError, match="same other dimensions"):
        component_space({"a": as_group(drawn())["loss"], "b": as_group(drawn(positions=8))["loss"]})


@pytest.mark.usefixtures("small_blocks")
def test_dask_gives_the_same_numbers_and_order_of_steps_does_not_matter() -> None:
    group = as_group(drawn())
    space = loss_space({"run": group})
    chunked = group.chunk({"step": 5, "sequence": 3, "position": 4})
    assert chunked["loss"].chunks is not None
    # Blocks end elsewhere, so that sums are rounded differently.
    xr.testing.assert_allclose(loss_space({"run": chunked}), space, rtol=1e-9, atol=1e-12)
    backwards = group.isel(step=slice(None, None, -1))
    xr.testing.assert_identical(loss_space({"run": backwards}), space)
    found = loadings({"run": chunked["loss"]}, space)
    np.testing.assert_allclose(found, loadings({"run": group["loss"]}, space), atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_checkpoints_that_are_not_finite_are_left_out_and_named() -> None:
    losses = drawn()
    damaged = losses.copy()
    damaged[0, 6, 8], damaged[7, 0, 0] = np.nan, np.inf
    space = loss_space({"run": as_group(damaged, steps=10 * np.arange(12))})
    assert space.attrs["left_out"] == [{"run": "run", "step": 0}, {"run": "run", "step": 70}]
    kept = np.delete(np.arange(12), [0, 7])
    good = loss_space({"run": as_group(losses[kept], steps=10 * kept)})
    np.testing.assert_allclose(space["scores"], good["scores"], atol=1e-12)
    assert space.attrs["tokens"] == 63


@pytest.mark.usefixtures("small_blocks")
def test_padding_does_not_count() -> None:
    losses = drawn()
    losses[:, 2, 5:] = np.nan
    group = as_group(losses)
    space = loss_space({"run": group})
    counted = np.isfinite(losses[0]).ravel()
    scores, _, _ = by_svd(losses.reshape(12, -1)[:, counted].astype(np.float64))
    np.testing.assert_allclose(space["scores"], scores[:, :10], atol=1e-9)
    assert (space.attrs["tokens"], space.attrs["left_out"]) == (59, [])
    found = loadings({"run": group["loss"]}, space)
    assert np.isnan(found.values[:, 2, 5:]).all() and np.isfinite(found).sum() == 10 * 59


def test_too_few_finite_checkpoints_are_refused() -> None:
    losses = drawn(4)
    losses[:2, 0, 0] = np.nan
    losses[2:, 0, 1] = np.nan
    with pytest.raises(InputError, match="0 of 4 checkpoints"):
        loss_space({"run": as_group(losses)})


def test_distances_and_angles_are_those_of_the_losses() -> None:
    losses = drawn().astype(np.float64)
    space = loss_space({"run": as_group(losses)})
    moves = np.diff(losses.reshape(12, -1), axis=0)
    lengths = np.linalg.norm(moves, axis=1)
    np.testing.assert_allclose(space["distance"][1:], lengths / np.sqrt(63))
    cosines = (moves[1:] * moves[:-1]).sum(axis=1) / lengths[1:] / lengths[:-1]
    np.testing.assert_allclose(space["turning_angle"][1:-1], np.degrees(np.arccos(cosines)))


def test_any_array_over_steps_has_components() -> None:
    logits = xr.DataArray(
        RNG.standard_normal((6, 10)), dims=("step", "frequency"), coords={"step": range(6)}
    )
    space = component_space({"run": logits})
    np.testing.assert_allclose(space["scores"], by_svd(logits.values)[0], atol=1e-9)
    with pytest.raises(InputError, match="same other dimensions"):
        component_space({"run": logits[:, 0]})


def test_alike_checkpoints_have_no_shares() -> None:
    space = loss_space({"run": as_group(np.full((4, 3, 7), 2.0, dtype=np.float32))})
    assert np.isnan(space["share"]).all()
    assert (space["scores"] == 0).all()


def test_memory_is_bounded() -> None:
    losses = RNG.standard_normal((100, 64, 1024), dtype=np.float32)
    array = xr.DataArray(
        losses, dims=("step", "sequence", "position"), coords={"step": np.arange(100)}
    )
    tracemalloc.start()
    space = component_space({"run": array})
    loadings({"run": array}, space)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # the losses have 26 MB, in float64 52; loadings 5, and as much once more
