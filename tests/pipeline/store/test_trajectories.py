"""Trajectories hold the rows' numbers, are used exactly when they are up to date, and replace
one another without disturbing a reader."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.query import open_run
from pipeline.store import Store, trajectories
from pipeline.store.lazy import StoredArray
from pipeline.store.trajectories import publish, published
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores, write

STEPS = [8, 0, 3, 5]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("made") / "run.zarr"
    return synthetic.run(folder, [scores(), losses()], STEPS)


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Store:
    shutil.copytree(made.uri, tmp_path / "run.zarr")
    return Store(str(tmp_path / "run.zarr"))


def folders(store: Store) -> set[str]:
    return {path.name for path in (Path(store.uri) / "trajectories").iterdir() if path.is_dir()}


def read_from(array: xr.DataArray) -> str:
    """Return the form from which a whole lazily opened array would be read."""
    stored = array.variable._data
    while not isinstance(stored, StoredArray):
        stored = stored.array  # type: ignore[union-attr]
    form = min(stored.forms, key=lambda form: form.cost(stored.shape))
    return form.folder.split("/")[0]


def test_they_hold_what_the_rows_hold(store: Store):
    rows = open_run(store)
    publish(store, large=True)
    again = open_run(store)
    assert read_from(rows["losses/loss"]) == "rows"
    assert read_from(again["losses/loss"]) == "trajectories"
    assert rows.identical(again)


def test_large_arrays_are_left_out_unless_asked_for(store: Store):
    publish(store)
    run = open_run(store)
    assert read_from(run["losses/mean"]) == read_from(run["losses/uri"]) == "trajectories"
    assert read_from(run["losses/loss"]) == "rows"
    publish(store, large=True)
    write(store, losses(), 9)
    publish(store)
    assert read_from(open_run(store)["losses/loss"]) == "trajectories"


def test_they_are_not_used_when_a_row_was_added_or_recomputed(store: Store):
    publish(store)
    write(store, scores(), 9)
    assert read_from(open_run(store)["scores/count"]) == "rows"
    assert read_from(open_run(store)["losses/mean"]) == "trajectories"
    publish(store)
    assert read_from(open_run(store)["scores/count"]) == "trajectories"
    write(store, scores(), 9, edition=1)
    assert read_from(open_run(store)["scores/count"]) == "rows"


def test_they_are_not_used_for_another_class(store: Store):
    publish(store)
    store.require_groups([scores(version=2)])
    write(store, scores(version=2), 8)
    store.set_current("scores", scores(version=2).variant)
    run = open_run(store)
    assert read_from(run["scores/count"]) == "rows"
    assert synthetic.wrong_rows(run, [scores(version=2)]) == []
    publish(store)
    assert synthetic.wrong_rows(open_run(store), [scores(version=2)]) == []


def test_publishing_again_touches_nothing(store: Store):
    publish(store)
    before = {p: p.stat().st_mtime_ns for p in Path(store.uri).rglob("*")}
    publish(store)
    assert {p: p.stat().st_mtime_ns for p in Path(store.uri).rglob("*")} == before


def test_only_new_rows_are_read_one_by_one(store: Store, monkeypatch):
    publish(store)
    for step in (1, 9):
        write(store, scores(), step)
    for chunk in Path(store.uri).glob("rows/scores/*/*/c/[0-3]"):
        chunk.rename(chunk.with_suffix(".hidden"))
    publish(store)
    run = open_run(store).load()
    assert run["scores"]["step"].values.tolist() == [0, 1, 3, 5, 8, 9]
    assert synthetic.wrong_rows(run, [scores()]) == []


def test_a_recomputed_row_is_read_anew(store: Store):
    publish(store)
    for step in STEPS:
        write(store, scores(), step, edition=1)
    publish(store)
    assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []


def test_a_reader_may_keep_the_trajectories_before_these(store: Store):
    publish(store)
    reader = open_run(store)
    write(store, scores(), 9)
    publish(store)
    assert reader["scores"]["step"].values.tolist() == sorted(STEPS)
    assert synthetic.wrong_rows(reader, [scores(), losses()]) == []
    write(store, scores(), 10)
    publish(store)
    assert folders(store) == {"losses.000001", "scores.000003", "scores.000004"}


def _publish(uri: str) -> None:
    publish(Store(uri))


@pytest.mark.slow
def test_a_publisher_killed_anywhere_harms_nothing(tmp_path: Path, store: Store):
    shutil.copytree(store.uri, tmp_path / "copy.zarr")
    total = killed.operations(_publish, str(tmp_path / "copy.zarr"))
    for number in range(0, total, 41):
        write(store, scores(), 100 + number)
        killed.killed_before(number, _publish, store.uri)
        assert synthetic.wrong_rows(open_run(store), [scores(), losses()]) == []
    publish(store)
    run = open_run(store)
    assert read_from(run["scores/count"]) == "trajectories"
    assert synthetic.wrong_rows(run, [scores(), losses()]) == []
    assert len(folders(store)) == len(published(store))


def test_a_folder_is_a_zarr_group_that_xarray_opens(store: Store):
    folder = publish(store, large=True)["losses"].folder
    opened = xr.open_zarr(f"{store.uri}/trajectories/{folder}", chunks=None)
    assert opened["step"].values.tolist() == sorted(STEPS)
    assert np.array_equal(
        opened["loss"].sel(step=5), open_run(store)["losses/loss"].sel(step=5), equal_nan=True
    )
    assert opened["loss"].attrs["unit"] == "nats"


def test_large_arrays_are_copied_slab_by_slab(store: Store, monkeypatch):
    """With blocks so small that every loop runs several times."""
    monkeypatch.setattr(trajectories, "_CHUNK", 8)
    monkeypatch.setattr(trajectories, "_SHARD", 16)
    monkeypatch.setattr(trajectories, "_SLAB", 32)
    rows = open_run(store)
    publish(store, large=True)
    assert open_run(store).identical(rows)


@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((200,), (200,), (200,)),
        ((600, 24, 16), (600, 8, 16), (600, 24, 16)),
        ((600, 256, 511), (600, 1, 128), (600, 32, 512)),
        ((3000, 2, 2), (1024, 2, 2), (1024, 2, 2)),
    ],
)
def test_one_trajectory_is_a_chunk_and_many_are_a_shard(shape, chunk, shard):
    found = trajectories._block(shape, trajectories._CHUNK)
    assert found == chunk
    block = trajectories._block(shape, trajectories._SHARD)
    assert tuple(-(-s // c) * c for s, c in zip(block, found, strict=True)) == shard


def test_few_heads_are_one_chunk_of_a_shard(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(trajectories, "_CHUNK", 2**14)
    store = synthetic.run(tmp_path / "wide.zarr", [scores(layers=24, heads=16)], range(60))
    folder = publish(store)["scores"].folder
    array = zarr.open_array(f"{store.uri}/trajectories/{folder}/induction", mode="r")
    assert array.chunks == (60, 16, 16)
    assert array.shards == (60, 32, 16)
