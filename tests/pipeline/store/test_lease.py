"""One coordinator at a time: others are refused while it lives, and can take over afterwards."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.store import Store, lease
from pipeline.store.lease import Lease, owned
from tests.pipeline.store import killed, synthetic


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [], [])


def hold(uri: str, holding, seconds: float) -> None:
    with owned(Store(uri), seconds):
        holding.set()
        time.sleep(60)


@pytest.fixture
def holder(store: Store):
    """Start a process that owns the store until it is killed."""
    holding = killed.CONTEXT.Event()
    process = killed.process_of(hold, store.uri, holding, 30.0)
    process.start()
    assert holding.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_owner_is_refused_and_told_who_and_how_long(store: Store, holder):
    with (
        pytest.raises(InputError, match=rf"process {holder.pid} on .* free in \d+ s"),
        owned(store),
    ):
        pass


def test_a_dead_owner_on_this_machine_is_replaced_at_once(store: Store, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with owned(store) as taken:
        assert taken.number == 2
        taken.check()


def test_a_dead_owner_elsewhere_is_replaced_after_its_deadline(store: Store, monkeypatch):
    monkeypatch.setattr(lease, "_machine", lambda: None)
    Lease(store.objects, 1, seconds=0.5).create()
    with pytest.raises(InputError, match="another analysis owns"), owned(store):
        pass
    time.sleep(0.6)
    with owned(store) as taken:
        assert taken.number == 2


def test_an_owner_that_ended_leaves_the_store_free(store: Store):
    for expected in (1, 2, 3):
        with owned(store) as taken:
            assert taken.number == expected
    assert len(store.objects.list(lease.FOLDER)) == 1


def test_an_error_in_the_block_frees_the_store(store: Store):
    with pytest.raises(KeyError), owned(store):
        raise KeyError
    with owned(store):
        pass


def test_an_owner_keeps_the_store_beyond_its_first_deadline(store: Store):
    with owned(store, seconds=0.6) as mine:
        time.sleep(1.5)
        mine.check()
        with pytest.raises(InputError, match="another analysis owns"), owned(store):
            pass


def test_an_owner_that_slept_finds_out_that_it_lost_the_store(store: Store):
    sleeper = Lease(store.objects, 1, seconds=0.3)
    sleeper.create()
    time.sleep(0.4)
    with owned(store) as taken:
        with pytest.raises(InputError, match="another analysis may own the store"):
            sleeper.check()
        assert not sleeper.renew()
        sleeper.release()
        taken.check()
        content = json.loads(store.objects.read(f"{lease.FOLDER}/00000002.json") or b"")
        assert not content["released"]


def test_an_owner_whose_storage_is_away_gives_up_at_its_deadline(store: Store, monkeypatch):
    def away(*args: object) -> None:
        raise OSError("away")

    with owned(store, seconds=0.5) as mine:
        monkeypatch.setattr("pipeline.store.objects.Objects.replace", away)
        time.sleep(0.8)
        with pytest.raises(InputError, match="could not renew its lease"):
            mine.check()
        monkeypatch.undo()


def test_one_of_many_that_come_at_once_wins(store: Store):
    won, refused = [], []
    barrier = threading.Barrier(8)

    def come() -> None:
        barrier.wait()
        try:
            lease._take(store.objects, 30)
            won.append(1)
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)


def test_where_no_store_is_nothing_is_written(tmp_path: Path):
    with pytest.raises(InputError, match="there is no store here"), owned(Store(str(tmp_path))):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_zombie_is_dead():
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    time.sleep(0.3)
    assert lease._started(process.pid or 0) is None
    process.join()
