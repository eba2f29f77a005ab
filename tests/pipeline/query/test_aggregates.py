"""Results over checkpoints that are stored: right, renewed when a row changes, never in the way."""

import errno
import logging
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.axes import explain_axes
from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.derivative import loss_derivative as derivative_of
from pipeline.aggregate.in_context import in_context_scores
from pipeline.aggregate.learning_curves import learning_curves as curves_of
from pipeline.aggregate.loss_space import loss_space as space_of
from pipeline.aggregate.run_transitions import transitions_of
from pipeline.aggregate.token_features import token_features
from pipeline.errors import InputError
from pipeline.query import aggregates, open_run
from pipeline.query.aggregates import stored_result
from pipeline.query.datasets import dataset_of, described
from pipeline.query.export import export
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.packs import decode, packed
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.results import FOLDER, check, opened
from pipeline.store.sealed import DamagedError
from pipeline.store.verify import verify
from tests.pipeline.aggregate.losses import as_group
from tests.pipeline.checkpoints.servers import Proxy
from tests.pipeline.query.total import store_total, total, total_of
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores

URI = "s3://stores/run.zarr"
OLD = Path(__file__).parents[2] / "data" / "stored-by-0.1.tar.xz"
STEPS = [1, 2, 4]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores(), losses()], STEPS)


def is_kept(store: Store, **parameters: Any) -> bool:
    """Return whether the answer is there, so that nothing is computed for it."""

    class ComputedError(Exception):
        pass

    def refuse(run: xr.DataTree) -> xr.Dataset:
        raise ComputedError

    try:
        stored_result(store, "total", 1, parameters, ["scores"], refuse)
    except ComputedError:
        return False
    return True


def files(store: Store) -> list[Path]:
    return sorted(path for path in (Path(store.uri) / FOLDER).rglob("*") if path.is_file())


def test_a_result_is_computed_once_and_is_the_same_ever_after(store: Store):
    first, expected = total(store), total_of(open_run(store))
    assert is_kept(store)
    xr.testing.assert_identical(first, total(store.uri))
    for name in expected.variables:
        assert first[name].dtype == expected[name].dtype
        xr.testing.assert_identical(first[name].variable, expected[name].variable)
    assert list(first.data_vars) == list(expected.data_vars)
    assert first.attrs == expected.attrs
    assert len(files(store)) == 1
    with pytest.raises(InputError, match="there are no rows of 'score'; did you mean 'scores'"):
        stored_result(store, "total", 1, {}, ["score"], total_of)


def test_a_result_reads_no_other_groups_than_it_says(store: Store):
    with pytest.raises(KeyError):
        stored_result(store, "other", 1, {}, ["losses"], total_of)


def add_step(store: Store) -> None:
    synthetic.write(store, scores(), 8)


def recompute(store: Store) -> None:
    synthetic.write(store, scores(), 2)


def change_weights(store: Store) -> None:
    synthetic.write(store, scores(), 2, edition=1)


def mask(store: Store) -> None:
    store.set_verdict(None, {4: "is a copy"})


def drop(store: Store) -> None:
    store.drop([commit for commit in store.commits("scores") if commit.step == 1])


def change_variant(store: Store) -> None:
    synthetic.run(store.uri, [scores(version=2)], STEPS)


@pytest.mark.parametrize(
    "change", [add_step, recompute, change_weights, mask, drop, change_variant]
)
def test_every_change_of_the_rows_has_it_computed_again(store: Store, change: Callable):
    before = total(store)
    change(store)
    assert not is_kept(store)
    after = total(store)
    np.testing.assert_array_equal(after["step"], open_run(store)["scores"]["step"])
    np.testing.assert_array_equal(after["total"], total_of(open_run(store))["total"])
    assert is_kept(store)
    assert before.identical(after) == (change is recompute)


def test_other_rows_parameters_and_versions_do_not_matter_to_it(store: Store):
    total(store)
    synthetic.write(store, losses(), 8)
    seal(store)
    assert is_kept(store)
    assert not is_kept(store, limit=3)
    total(store, limit=3)
    total(store, version=2)
    assert is_kept(store)
    assert is_kept(store, limit=3)
    assert len(files(store)) == 3


def test_a_result_of_all_groups_depends_on_each(store: Store):
    asked = []

    def count(run: xr.DataTree) -> xr.Dataset:
        asked.append(sorted(run.children))
        return xr.Dataset({"groups": ((), len(run.children))})

    for _ in range(2):
        stored_result(store, "count", 1, {}, None, count)
    synthetic.write(store, losses(), 8)
    for _ in range(2):
        stored_result(store, "count", 1, {}, None, count)
    assert asked == [["losses", "scores"]] * 2


def test_a_row_that_comes_while_it_is_computed_does_not_enter(store: Store):
    def late(run: xr.DataTree) -> xr.Dataset:
        synthetic.write(store, scores(), 8)
        return total_of(run)

    found = stored_result(store, "total", 1, {}, ["scores"], late)
    assert found["step"].values.tolist() == STEPS
    assert not is_kept(store)
    assert total(store)["step"].values.tolist() == [*STEPS, 8]


def test_a_row_that_comes_before_the_run_is_opened_does_not_enter(store: Store, monkeypatch):
    def late(*args: Any, **kwargs: Any) -> xr.DataTree:
        synthetic.write(store, scores(), 8)
        return open_run(*args, **kwargs)

    monkeypatch.setattr(aggregates, "open_run", late)
    assert total(store)["step"].values.tolist() == STEPS


def test_what_is_neither_number_nor_text_is_refused(store: Store):
    for values in ([None, "a"], [1, "a"], [b"a", "a"]):
        with pytest.raises(TypeError, match="only numbers and texts"):
            described(xr.Dataset({"x": ("i", np.array(values, dtype=object))}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00"),
        lambda path: path.write_bytes(packed({"result": {"key": "a"}}, {}).pack),
        lambda path: path.write_bytes(packed({}, {}).pack),
    ],
)
def test_a_damaged_result_is_computed_again_and_said(store: Store, damage: Callable, caplog):
    expected = total(store)
    (path,) = files(store)
    damage(path)
    (fault,) = verify(store).faults
    assert fault.where == f"{FOLDER}/total/{path.name}"
    with caplog.at_level(logging.WARNING):
        xr.testing.assert_identical(total(store), expected)
    assert "it is computed again" in caplog.text
    assert verify(store).faults == ()
    assert is_kept(store)
    damage(path)
    verify(store, repair=True)
    assert files(store) == []
    assert verify(store).faults == ()


def test_no_byte_of_a_result_can_be_changed_unseen(store: Store):
    expected = total(store)
    (path,) = files(store)
    key, content = f"{FOLDER}/total/{path.name}", path.read_bytes()
    unseen = []
    for place, byte in enumerate(content):
        changed = content[:place] + bytes([byte ^ 4]) + content[place + 1 :]
        try:
            check(key, changed)
        except DamagedError:
            continue
        xr.testing.assert_identical(dataset_of(opened(key, changed)), expected)
        unseen.append(content[place : place + 1])
    assert unseen == [b"\n"] * 3, "the ends of lines, which say nothing"


def test_a_result_that_cannot_be_written_is_returned_and_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog
):
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("pipeline.store.local_files.make_folder", refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert total(store)["step"].values.tolist() == STEPS
    assert caplog.text.count("results are not stored, and computed each time") == 1
    assert "the file system is read-only" in caplog.text
    assert files(store) == []


def test_a_store_of_layout_1_has_its_results_computed(tmp_path: Path, caplog):
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    uri = str(tmp_path / "small.zarr")
    with caplog.at_level(logging.WARNING):
        xr.testing.assert_identical(aggregates.transitions(uri), transitions_of(open_run(uri)))
    assert "layout 1 keeps no results" in caplog.text
    assert not (tmp_path / "small.zarr" / FOLDER).exists()


def test_an_analysis_is_not_disturbed(store: Store, tmp_path: Path):
    with owned(store):
        total(store)
        assert is_kept(store)
        synthetic.write(store, scores(), 8)
    total(store)
    export(store.uri, tmp_path / "copy.zarr")
    copied = xr.open_datatree(str(tmp_path / "copy.zarr"), engine="zarr")
    assert sorted(copied.children) == ["losses", "scores"]


def test_a_result_that_came_in_between_is_no_fault(store: Store, caplog):
    def slower(run: xr.DataTree) -> xr.Dataset:
        total(store)
        return total_of(run)

    with caplog.at_level(logging.WARNING):
        found = stored_result(store, "total", 1, {}, ["scores"], slower)
    xr.testing.assert_identical(found, total(store))
    assert len(files(store)) == 1
    assert caplog.text == ""


@pytest.mark.slow
def test_processes_that_store_it_at_once_all_succeed(store: Store):
    killed.side_by_side(store_total, [(store.uri,)] * 4)
    assert len(files(store)) == 1
    assert is_kept(store)
    assert verify(store).foreign == ()


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_wrong(store: Store):
    count = killed.operations(store_total, store.uri)
    expected = total(store)
    assert count >= 4, "a folder, a file, its name, and the end of its first one"
    for operation in range(count):
        files(store)[0].unlink()
        killed.killed_before(operation, store_total, store.uri)
        assert verify(store).faults == ()
        xr.testing.assert_identical(total(store), expected)
    reclaim(store, older_than=-60)
    assert len(files(store)) == 1, "unfinished files are removed"


def age(store: Store) -> None:
    then = time.time() - 3600
    for path in files(store):
        os.utime(path, (then, then))


def test_reclaiming_removes_results_of_former_rows_and_versions(store: Store):
    total(store)
    total(store, limit=3)
    aggregates.transitions(store)
    age(store)
    assert reclaim(store, older_than=60).objects == 0
    assert len(files(store)) == 3
    total(store, version=2)
    synthetic.write(store, losses(), 8)
    age(store)
    dry = reclaim(store, older_than=60, dry_run=True)
    assert len(files(store)) == 4
    assert (dry.rows, dry.objects) == (0, 2), "version 1, and the transitions of all groups"
    found = reclaim(store, older_than=60)
    assert (found.objects, found.bytes) == (2, dry.bytes)
    assert is_kept(store, limit=3)
    assert not is_kept(store)


def test_a_former_result_that_is_young_is_kept(store: Store):
    total(store)
    add_step(store)
    assert reclaim(store, older_than=3600).objects == 0
    assert len(files(store)) == 1
    reclaim(store, older_than=-60)
    assert files(store) == []
    assert not (Path(store.uri) / FOLDER).exists()


def test_a_damaged_result_does_not_keep_the_others_from_being_reclaimed(store: Store):
    total(store)
    total(store, limit=3)
    files(store)[0].write_bytes(b"")
    add_step(store)
    assert reclaim(store, older_than=-60).objects >= 1
    assert [path.read_bytes() for path in files(store)] == [b""]


def test_on_s3_it_is_the_same(s3: Proxy, tmp_path: Path, caplog):
    there = synthetic.run(URI, [scores(), losses()], STEPS)
    here = synthetic.run(tmp_path / "run.zarr", [scores(), losses()], STEPS)
    killed.side_by_side(store_total, [(there.uri,)] * 3)
    xr.testing.assert_identical(total(there), total(here))
    assert is_kept(there)
    (key,) = there.objects.list(FOLDER)
    assert key == there.objects.list(FOLDER)[0]
    there.objects.put({key: b"ontogeny pack 1\n"})
    assert [fault.where for fault in verify(there).faults] == [key]
    xr.testing.assert_identical(total(there), total(here))
    assert verify(there).faults == ()
    add_step(there)
    reclaim(there, older_than=-60)
    assert there.objects.list(FOLDER) == []


def test_without_the_right_to_write_to_s3_it_is_returned_and_said(s3: Proxy, caplog):
    store = synthetic.run(URI, [scores()], STEPS)

    def refused(run: xr.DataTree) -> xr.Dataset:
        found = total_of(run)
        s3.ignored, s3.faults.first = {"if-none-match"}, [403] * 3
        return found

    with caplog.at_level(logging.WARNING):
        found = stored_result(store, "total", 1, {}, ["scores"], refused)
    assert found["step"].values.tolist() == STEPS
    assert "access is denied" in caplog.text


def test_stored_answers_about_losses_are_those_of_their_functions(tmp_path: Path):
    template = losses(sequences=5, positions=7)
    store = synthetic.run(tmp_path / "run.zarr", [template], range(1, 14))
    group = open_run(store, chunks="stored")["losses"].to_dataset()
    pairs = [
        (aggregates.loss_space(store, "losses", 3), space_of({"run": group}, 3)),
        (aggregates.loss_derivative(store, "losses"), derivative_of(group)),
        (aggregates.learning_curves(store, "losses"), curves_of(group)),
        (aggregates.transitions(store), transitions_of(open_run(store))),
    ]
    for stored, expected in pairs:
        xr.testing.assert_identical(stored, expected)
    assert len(files(store)) == 4


def test_every_result_about_losses_can_be_stored():
    rng = np.random.default_rng(0)
    group = as_group(rng.uniform(0, 9, (12, 6, 8)))
    space = space_of({"run": group}, 3)
    features = token_features(rng.integers(0, 4, (6, 9)))
    for found in (
        space,
        features,
        find_corner(space, "run", simulations=20),
        explain_axes({"run": group}, space, features, components=2, resamples=20),
        in_context_scores(group),
    ):
        description, arrays = described(found)
        again = dataset_of(decode(packed({"dataset": description}, arrays).pack))
        xr.testing.assert_identical(again, found)
