"""A writer may be killed between any two operations: nothing wrong is ever shown, nothing lost.

Every so many operations, to be quick; `tests/benchmarks/kills.py` kills at random for long.
"""

from pathlib import Path

import pytest

from pipeline.query import open_run
from pipeline.store import Store
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import scores

STEPS = [0, 4]


def committed(store: Store) -> set[int]:
    return {commit.step for commit in store.commits()}


@pytest.fixture
def undisturbed(tmp_path: Path):
    return open_run(synthetic.run(tmp_path / "undisturbed.zarr", [scores()], STEPS))


def test_a_run_killed_anywhere_is_completed_by_the_next_one(tmp_path: Path, undisturbed):
    total = killed.operations(killed.run, str(tmp_path / "counted.zarr"), STEPS)
    assert total > 20
    for number in range(0, total, 3):
        uri = str(tmp_path / f"{number}.zarr")
        killed.killed_before(number, killed.run, uri, STEPS)
        if Store(uri).versions.newest_number():
            assert synthetic.wrong_rows(open_run(uri), [scores()]) == []
        again = synthetic.run(uri, [scores()], STEPS)
        assert open_run(again).identical(undisturbed), f"killed before operation {number}"


def test_a_row_killed_anywhere_is_shown_whole_or_not_at_all(tmp_path: Path):
    store = synthetic.run(tmp_path / "killed.zarr", [scores()], STEPS[:1])
    plan = store.version().number
    total = killed.operations(killed.write_rows, store.uri, [1000], plan)
    for number in range(total + 1):
        step = 2000 + number
        killed.killed_before(number, killed.write_rows, store.uri, [step], plan)
        shown = open_run(store)
        assert synthetic.wrong_rows(shown, [scores()]) == []
        assert (step in shown["scores"]["step"]) == (step in committed(store))
    assert 2000 not in committed(store), "the first was killed before it wrote anything"
    assert 2000 + total in committed(store), "the last was not killed"


def test_four_processes_writing_at_once_lose_nothing(tmp_path: Path):
    store = synthetic.run(tmp_path / "s.zarr", [scores()], [])
    number, steps = store.version().number, [10 * one for one in range(40)]
    killed.side_by_side(killed.write_rows, [(store.uri, steps[i::4], number) for i in range(4)])
    shown = open_run(store)
    assert shown["scores"]["step"].values.tolist() == steps
    assert synthetic.wrong_rows(shown, [scores()]) == []
