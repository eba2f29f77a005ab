"""Losses stored as float16: asked for, stated, measured, and never silently wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.fingerprint import variant_id
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.writer import Writer
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, row_of, scores, values_of

HALF = replace(losses(), half=frozenset({"loss"}), variant=variant_id(half=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "run.zarr"))
    made.create_or_open({})
    made.require_groups([HALF])
    return made


def write(store: Store, loss: np.ndarray, step: int = 0):
    values = {**values_of(HALF, step), "loss": loss}
    writer = Writer(store, store.version().number, [HALF])
    return writer.write([("losses", row_of(HALF, step), values)])[0]


def test_they_are_read_as_float32_within_the_stated_error(store: Store):
    loss = np.random.default_rng(0).uniform(0, 15.99, (4, 6)).astype(np.float32)
    commit = write(store, loss)
    shown = open_run(store)["losses/loss"]
    assert shown.dtype == np.float32
    error = np.abs(shown.values[0].astype(np.float64) - loss)
    assert 0 < error[loss < 8].max() <= 0.002
    assert 0 < error.max() <= 0.004
    assert store.pack(commit).header["rounding"] == {"loss": float(error.max())}
    assert shown.attrs["stored_as"].startswith("float16: rounded by at most 0.002 below 8")


def test_they_take_half_the_bytes(store: Store):
    commit = write(store, values_of(HALF, 0)["loss"])
    assert store.pack(commit).array("loss").dtype == np.float16
    folder = publish(store).published["losses"].folder
    array = zarr.open_array(f"{store.uri}/published/{folder}/loss", mode="r")
    assert array.dtype == np.float16
    about = store.version().template("losses", HALF.variant)["variables"]["loss"]
    assert array.attrs["stored_as"] == about["stored_as"]


def test_what_is_undefined_or_infinite_stays_so(store: Store):
    loss = np.zeros((4, 6), np.float32)
    loss[0], loss[1] = np.nan, np.inf
    commit = write(store, loss)
    shown = open_run(store)["losses/loss"].values[0]
    assert np.isnan(shown[0]).all() and np.isinf(shown[1]).all()
    assert store.pack(commit).header["rounding"] == {"loss": 0.0}


def test_what_float16_cannot_hold_is_refused(store: Store):
    with pytest.raises(ValueError, match=r"'loss' reaches 70000, and float16 ends at 65504"):
        write(store, np.full((4, 6), 7e4, np.float32))
    assert store.commits() == []


def test_trajectories_and_checksums_are_of_what_is_stored(store: Store):
    for step in range(3):
        write(store, values_of(HALF, step)["loss"], step)
    rows = open_run(store).load()
    publish(store)
    assert open_run(store).identical(rows)
    assert verify(store).faults == ()


def test_a_variant_does_not_change_what_it_is_stored_as(store: Store):
    with pytest.raises(InputError, match=r"variables of group 'losses' is .*choose another store"):
        store.require_groups([replace(HALF, half=frozenset())])


def test_only_float32_variables_can_be_stored_so():
    with pytest.raises(InputError, match=r"\['mean'\] cannot be stored as float16.*: loss"):
        replace(losses(), half=frozenset({"mean"}))
    with pytest.raises(InputError, match=r"\['count'\].*: induction"):
        replace(scores(), half=frozenset({"count"}))


def test_other_variables_keep_every_bit(tmp_path: Path, store: Store):
    write(store, values_of(HALF, 5)["loss"], 5)
    assert open_run(store)["losses/mean"].sel(step=5).item() == values_of(HALF, 5)["mean"]
    assert (
        "stored_as"
        not in open_run(synthetic.run(tmp_path / "b", [losses()], [0]))["losses/loss"].attrs
    )
