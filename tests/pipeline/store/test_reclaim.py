"""Reclaiming removes all that no reader sees and nothing else, whoever wakes up when."""

import os
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.reclaim import reclaim, seal, tidy
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.writer import Writer
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, row_of, scores, values_of, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores(), losses()], [0, 1])


def age(store: Store, seconds: float = 3600) -> None:
    """Make everything in the store older by so many seconds."""
    then = time.time() - seconds
    for path in Path(store.uri).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def contents(store: Store) -> set[str]:
    root = Path(store.uri)
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    return {name for name in files if not name.startswith(("_lease", "versions"))}


def test_there_is_nothing_to_reclaim_in_an_ordinary_store(store: Store):
    age(store)
    before = contents(store)
    assert reclaim(store, older_than=0).objects == 0
    assert contents(store) == before


def test_a_recomputed_row_is_removed(store: Store):
    write(store, scores(), 1, edition=1)
    write(store, scores(), 0, edition=1)
    age(store)
    found = reclaim(store, older_than=60)
    assert (found.rows, found.objects) == (2, 2)
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


def test_rows_of_a_writer_that_slept_are_removed(store: Store):
    """They are of a generation that was sealed meanwhile, and were written once more."""
    writer = Writer(store, store.version().number, [scores()])
    writer.write([("scores", row_of(scores(), 7), values_of(scores(), 7))])
    seal(store)
    writer.write([("scores", row_of(scores(), 8), values_of(scores(), 8))])
    age(store)
    assert len(list(Path(store.uri).glob("packs/*/scores/8.*"))) == 2
    assert reclaim(store, older_than=60).rows == 1
    assert open_run(store)["scores"]["step"].values.tolist() == [0, 1, 7, 8]
    assert synthetic.wrong_rows(open_run(store), [scores(), losses()]) == []


def test_large_variables_go_with_their_rows(store: Store, monkeypatch):
    monkeypatch.setattr("pipeline.store.packs.LARGE", 8)
    old = write(store, losses(), 5)
    new = write(store, losses(), 5, edition=1)
    age(store)
    found = reclaim(store, older_than=60)
    assert (found.rows, found.objects) == (1, 2)
    assert store.objects.read(old.large_key("loss")) is None
    assert store.objects.read(new.large_key("loss")) is not None
    assert verify(store).faults == ()


def test_the_newest_versions_are_kept(store: Store):
    for step in range(12):
        store.set_verdict(None, {step: "copy"})
    age(store)
    reclaim(store, older_than=60)
    newest = store.version().number
    assert store.versions.numbers()[-10:] == list(range(newest - 9, newest + 1))
    assert len(store.versions.numbers()) <= 12, "those that reclaiming itself made are young"


def test_unfinished_files_are_removed(store: Store):
    (Path(store.uri) / "packs/1/scores/0123.partial").write_text("half")
    assert reclaim(store, older_than=60).objects == 0
    age(store)
    assert reclaim(store, older_than=60).objects == 1


def test_variants_that_are_not_current_are_removed_unless_kept(store: Store):
    newer = scores(version=2)
    synthetic.run(store.uri, [newer], [0, 1, 2])
    age(store)
    assert reclaim(store, older_than=60, keep_variants=True).objects == 0
    found = reclaim(store, older_than=60)
    assert found.rows == 2
    assert list(store.version().groups["scores"]["variants"]) == [newer.variant]
    assert synthetic.wrong_rows(open_run(store), [newer, losses()]) == []
    synthetic.run(store.uri, [scores()], [0, 1])
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []


def test_the_old_variant_stays_while_the_new_one_is_young(store: Store):
    age(store)
    synthetic.run(store.uri, [scores(version=2)], [0, 1])
    assert reclaim(store, older_than=60).rows == 0


def test_a_variant_that_is_planned_but_not_yet_current_is_left_alone(store: Store):
    store.require_groups([scores(version=2)])
    age(store)
    assert reclaim(store, older_than=60).objects == 0
    write(store, scores(version=2), 0)


def test_a_dry_run_removes_nothing(store: Store):
    write(store, scores(), 1, edition=1)
    age(store)
    before = contents(store)
    assert reclaim(store, older_than=60, dry_run=True).rows == 1
    assert contents(store) == before


def test_nothing_is_reclaimed_while_an_analysis_runs(store: Store):
    with owned(store), pytest.raises(InputError, match="another analysis owns the store"):
        reclaim(store)


@pytest.mark.slow
def test_a_reclaim_that_is_killed_anywhere_shows_nothing_wrong(store: Store):
    for step in (0, 1):
        write(store, scores(), step, edition=1)
    age(store)
    for number in range(0, 60, 7):
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


def test_an_analysis_removes_trajectories_that_were_replaced_long_ago(store: Store):
    for step in (2, 3, 4):
        write(store, scores(), step)
        seal(store)
        publish(store)
    folders = lambda: set(Path(store.uri).glob("published/*/scores.*"))  # noqa: E731
    before = folders()
    tidy(store)
    assert folders() == before and len(before) == 3, "they are young"
    age(store, 2 * 86400)
    tidy(store)
    named = store.version().published["scores"]
    assert {f"{f.parent.name}/{f.name}" for f in folders()} == {named.folder, named.previous}
    assert verify(store).faults == ()


def test_an_analysis_that_was_planned_earlier_changes_no_later_verdict(store: Store):
    early = store.require_groups([scores()], plan=True).number
    late = store.require_groups([scores(version=2)], plan=True).number
    write(store, scores(version=2), 0, number=late)
    seal(store)
    shown = {"scores": scores(version=2).variant}
    store.settle(late, {"by": "late"}, {1: "copy"}, shown, {"scores": [0]})
    store.settle(early, {"by": "early"}, {}, {"scores": scores().variant}, {})
    version = store.version()
    assert (version.verdict, version.masked) == ({"by": "late"}, {1: "copy"})
    assert version.current("scores") == scores(version=2).variant
    with pytest.raises(InputError, match="were reclaimed while they were computed"):
        store.settle(late, None, {}, shown, {"scores": [0, 7]})
