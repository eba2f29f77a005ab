"""Trajectories hold the rows' numbers, are used exactly when they are up to date, and replace
one another without disturbing a reader."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.query import open_run
from pipeline.store import Store, chunk_shapes
from pipeline.store.lazy import StoredArray
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
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
    return {str(p.relative_to(p.parents[1])) for p in (Path(store.uri) / "published").glob("*/*/")}


def read_from(array: xr.DataArray) -> str:
    """Return where a lazily opened array is read from: "packs", "published" or "both"."""
    stored = array.variable._data
    while not isinstance(stored, StoredArray):
        stored = stored.array  # type: ignore[union-attr]
    there = stored._from_trajectories(np.arange(stored.shape[0]), stored.shape[1:])
    return "published" if there.all() else "both" if there.any() else "packs"


def test_they_hold_what_the_rows_hold(store: Store):
    rows = open_run(store)
    publish(store)
    again = open_run(store)
    assert read_from(rows["losses/loss"]) == "packs"
    assert read_from(again["losses/loss"]) == "published"
    assert rows.identical(again)


def test_rows_that_were_added_or_recomputed_are_read_from_packs(store: Store):
    publish(store)
    write(store, scores(), 9)
    run = open_run(store)
    assert read_from(run["scores/count"]) == "both"
    assert read_from(run["losses/mean"]) == read_from(run["losses/uri"]) == "published"
    assert synthetic.wrong_rows(run, [scores(), losses()]) == []
    publish(store)
    assert read_from(open_run(store)["scores/count"]) == "published"
    for step in (*STEPS, 9):
        write(store, scores(), step, edition=1)
    run = open_run(store)
    assert read_from(run["scores/count"]) == "packs"
    assert synthetic.wrong_rows(run, [scores()], edition=1) == []


def test_they_are_not_used_for_another_variant(store: Store):
    publish(store)
    store.require_groups([scores(version=2)])
    write(store, scores(version=2), 8)
    synthetic.show(store, scores(version=2))
    run = open_run(store)
    assert read_from(run["scores/count"]) == "packs"
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
    seal(store)
    for pack in [*Path(store.uri).glob("packs/*/scores/[0358].*")]:
        pack.unlink()
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
    reclaim(store, older_than=-60)
    assert synthetic.wrong_rows(reader, [scores(), losses()]) == [], "the ones before are kept"
    write(store, scores(), 10)
    publish(store)
    reclaim(store, older_than=-60)
    named = {f for one in store.version().published.values() for f in (one.folder, one.previous)}
    assert folders(store) == named - {None}


@pytest.mark.parametrize("links", [True, False])
def test_full_shards_of_large_variables_are_not_written_again(tmp_path, monkeypatch, links):
    monkeypatch.setattr(chunk_shapes, "_LARGE", 8)
    monkeypatch.setattr(chunk_shapes, "_STEPS_LARGE", 4)
    if not links:
        monkeypatch.setattr("os.link", _no_links)
    store = synthetic.run(tmp_path / "run.zarr", [losses()], range(10))
    before = publish(store).published["losses"].folder
    write(store, losses(), 10)
    after = publish(store).published["losses"].folder
    for shard, is_same in (("0/0/0", True), ("1/0/0", True), ("2/0/0", False)):
        old, new = (
            Path(store.uri) / "published" / folder / "loss/c" / shard for folder in (before, after)
        )
        assert (old.read_bytes() == new.read_bytes()) == is_same
        assert (old.stat().st_ino == new.stat().st_ino) == (is_same and links)
    assert synthetic.wrong_rows(open_run(store), [losses()]) == []
    write(store, losses(), 3, edition=1)
    publish(store)
    shown = open_run(store).load()
    assert synthetic.wrong_rows(shown.sel(step=[3]), [losses()], edition=1) == []
    assert synthetic.wrong_rows(shown.sel(step=[0, 1, 2, *range(4, 11)]), [losses()]) == []


def _no_links(*args: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def _publish(uri: str) -> None:
    publish(Store(uri))


@pytest.mark.slow
def test_a_publisher_killed_anywhere_harms_nothing(tmp_path: Path, store: Store):
    shutil.copytree(store.uri, tmp_path / "copy.zarr")
    total = killed.operations(_publish, str(tmp_path / "copy.zarr"))
    for number in range(0, total, 61):
        write(store, scores(), 100 + number)
        killed.killed_before(number, _publish, store.uri)
        assert synthetic.wrong_rows(open_run(store), [scores(), losses()]) == []
    publish(store)
    run = open_run(store)
    assert read_from(run["scores/count"]) == "published"
    assert synthetic.wrong_rows(run, [scores(), losses()]) == []
    assert verify(store).faults == ()


def test_a_folder_is_a_zarr_group_that_xarray_opens(store: Store):
    folder = publish(store).published["losses"].folder
    opened = xr.open_zarr(f"{store.uri}/published/{folder}", chunks=None)
    assert opened["step"].values.tolist() == sorted(STEPS)
    assert np.array_equal(
        opened["loss"].sel(step=5), open_run(store)["losses/loss"].sel(step=5), equal_nan=True
    )
    assert opened["loss"].attrs["unit"] == "nats"


def test_large_arrays_are_copied_slab_by_slab(store: Store, monkeypatch):
    """With blocks so small that every loop runs several times."""
    monkeypatch.setattr(chunk_shapes, "_CHUNK", 8)
    monkeypatch.setattr(chunk_shapes, "_SHARD", 16)
    monkeypatch.setattr(chunk_shapes, "_SLAB", 32)
    rows = open_run(store)
    publish(store)
    assert open_run(store).identical(rows)


@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((200,), (200,), (200,)),
        ((600, 24, 16), (600, 8, 16), (600, 24, 16)),
        ((600, 256, 1023), (128, 1, 1023), (128, 128, 1023)),
        ((600, 256, 511), (128, 2, 511), (128, 256, 511)),
        ((3000, 2, 2), (1024, 2, 2), (1024, 2, 2)),
    ],
)
def test_one_trajectory_is_a_chunk_and_many_are_a_shard(shape, chunk, shard):
    assert chunk_shapes.blocks(shape, itemsize=4) == (chunk, shard)


def test_few_heads_are_one_chunk_of_a_shard(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(chunk_shapes, "_CHUNK", 2**14)
    store = synthetic.run(tmp_path / "wide.zarr", [scores(layers=24, heads=16)], range(60))
    folder = publish(store).published["scores"].folder
    array = zarr.open_array(f"{store.uri}/published/{folder}/induction", mode="r")
    assert array.chunks == (60, 16, 16)
    assert array.shards == (60, 32, 16)
