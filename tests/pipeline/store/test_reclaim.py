"""Objects that no reader sees are removed once they are old; visible ones never are."""

import os
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.reclaim import reclaim
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores, write

ARRAYS = 6  # of each template: two variables and four that every group carries


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores(), losses()], [0, 1])


def age(store: Store, seconds: float = 3600) -> None:
    """Make everything in the store older by so many seconds."""
    then = time.time() - seconds
    for path in Path(store.uri).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def snapshot(store: Store) -> set[str]:
    root = Path(store.uri)
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    return {name for name in files if not name.startswith("_lease")}


def test_there_is_nothing_to_reclaim_in_an_ordinary_store(store: Store):
    age(store)
    before = snapshot(store)
    assert reclaim(store, older_than=0).objects == 0
    assert snapshot(store) == before


def test_a_recomputed_row_is_removed(store: Store):
    write(store, scores(), 1, edition=1)
    write(store, scores(), 0, edition=1)
    age(store)
    found = reclaim(store, older_than=60)
    assert (found.rows, found.objects) == (2, 2 * (ARRAYS + 1))
    assert found.bytes > 0
    assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []
    assert len(store.commits("scores")) == 2
    assert reclaim(store, older_than=60).objects == 0


def test_a_row_that_was_recomputed_just_now_may_still_be_open(store: Store):
    reader = open_run(store)
    age(store)
    write(store, scores(), 1, edition=1)
    assert reclaim(store, older_than=60).objects == 0
    assert synthetic.wrong_rows(reader, [scores()]) == []


def test_a_row_without_a_marker_is_removed(store: Store):
    (row,) = store.reserve("scores", scores().variant, 1)
    killed.killed_before(9, killed.write_rows, store.uri, [7], [row])
    assert reclaim(store, older_than=60).objects == 0, "its worker may be slow"
    age(store)
    assert reclaim(store, older_than=60).rows == 1
    assert synthetic.wrong_rows(open_run(store), [scores(), losses()]) == []
    assert store.reserve("scores", scores().variant, 1)[0] > row, "it is not handed out again"


def test_unfinished_files_are_removed(store: Store):
    (Path(store.uri) / "rows/zarr.0123.partial").write_text("half")
    assert reclaim(store, older_than=60).objects == 0
    age(store)
    assert reclaim(store, older_than=60).objects == 1


def test_classes_that_are_not_current_are_removed_unless_kept(store: Store):
    newer = scores(version=2)
    synthetic.run(store.uri, [newer], [0, 1, 2])
    age(store)
    assert reclaim(store, older_than=60, keep_variants=True).objects == 0
    found = reclaim(store, older_than=60)
    assert (found.rows, found.variants) == (2, 1)
    assert not (Path(store.uri) / f"rows/scores/{scores().variant}").exists()
    assert synthetic.wrong_rows(open_run(store), [newer, losses()]) == []
    synthetic.run(store.uri, [scores()], [0, 1])
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []


def test_the_old_class_stays_while_the_new_one_is_young(store: Store):
    age(store)
    synthetic.run(store.uri, [scores(version=2)], [0, 1])
    assert reclaim(store, older_than=60).rows == 0


def test_a_class_that_is_prepared_but_not_yet_current_is_left_alone(store: Store):
    store.require_groups([scores(version=2)])
    age(store)
    assert reclaim(store, older_than=60).objects == 0
    write(store, scores(version=2), 0)


def test_a_dry_run_removes_nothing(store: Store):
    write(store, scores(), 1, edition=1)
    age(store)
    before = snapshot(store)
    assert reclaim(store, older_than=60, dry_run=True).rows == 1
    assert snapshot(store) == before


def test_nothing_is_reclaimed_while_an_analysis_runs(store: Store):
    with owned(store), pytest.raises(InputError, match="another analysis owns the store"):
        reclaim(store)


@pytest.mark.slow
def test_a_reclaim_that_is_killed_anywhere_shows_nothing_wrong(store: Store):
    for step in (0, 1):
        write(store, scores(), step, edition=1)
    age(store)
    for number in range(0, 24, 5):
        killed.killed_before(number, _reclaim, store.uri)
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []
    reclaim(store, older_than=60)
    assert len(store.commits("scores")) == 2


def _reclaim(uri: str) -> None:
    reclaim(Store(uri), older_than=60)


def test_on_s3_it_is_the_same(s3):
    store = synthetic.run("s3://stores/run.zarr", [scores()], [0, 1])
    write(store, scores(), 1, edition=1)
    assert reclaim(store, older_than=-60).rows == 1
    assert len(store.commits()) == 2
    assert open_run(store).load()["scores"]["step"].values.tolist() == [0, 1]
