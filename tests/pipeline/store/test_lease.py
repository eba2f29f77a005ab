"""One coordinator at a time: others are refused while it lives, and can take over afterwards."""

import json
import multiprocessing
import os
import signal
import socket
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
    assert holding.wait(300)
    yield process
    process.kill()
    process.join()


def test_a_second_owner_is_refused_and_told_who(store: Store, holder):
    with pytest.raises(InputError, match=rf"process {holder.pid} on .*store unlock"), owned(store):
        pass


def test_a_dead_owner_on_this_machine_is_replaced_at_once(store: Store, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with owned(store) as taken:
        assert taken.number == 2
        taken.check()


def test_a_stopped_owner_is_replaced_and_told_when_it_wakes_up(store: Store, monkeypatch):
    process = killed.process_of(hold, store.uri, (holding := killed.CONTEXT.Event()), 1.5)
    process.start()
    assert holding.wait(300)
    os.kill(process.pid, signal.SIGSTOP)
    while lease._state(process.pid) != "T":
        time.sleep(0.01)
    with owned(store) as taken:
        assert taken.number == 2
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(1.0)
        taken.check()
    process.kill()
    process.join()


@pytest.mark.parametrize("ahead", [-3 * 365 * 86400, 90, 600, 3 * 365 * 86400])
def test_clocks_that_are_wrong_change_nothing(store: Store, monkeypatch, ahead):
    monkeypatch.setattr(lease, "_machine", lambda: None)
    with owned(store, seconds=6.0):  # else a busy machine may let it pass
        monkeypatch.setattr(time, "time", lambda: 1.7e9 + ahead)
        with pytest.raises(InputError, match="another analysis owns"), owned(store):
            pass
    Lease(store.objects, 2, seconds=0.6).create()  # of an owner that died at once
    said: list[str] = []
    with owned(store, waiting=said.append) as taken:
        assert taken.number == 3
    assert "may own the store: watching it for up to 1 s" in said[0]


def test_a_dead_owner_elsewhere_is_replaced_after_a_while(store: Store, monkeypatch):
    monkeypatch.setattr(lease, "_machine", lambda: None)
    Lease(store.objects, 1, seconds=0.5).create()
    began = time.monotonic()
    with owned(store) as taken:
        assert taken.number == 2
    assert 0.5 <= time.monotonic() - began < 30


def test_unlocking_frees_the_store_and_names_who_had_it(store: Store, monkeypatch):
    assert lease.unlock(store) is None
    monkeypatch.setattr(lease, "_machine", lambda: None)
    Lease(store.objects, 1, seconds=600).create()
    assert lease.unlock(store) == f"process {os.getpid()} on {socket.gethostname()}"
    with owned(store):
        pass
    assert lease.unlock(store) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff"])
def test_a_damaged_lease_is_nobodys(store: Store, content):
    store.objects.put({f"{lease.FOLDER}/00000004.json": content})
    store.objects.put({f"{lease.FOLDER}/.nfs0001": b""})
    with owned(store) as taken:
        assert taken.number == 5
        taken.check()


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


def test_an_owner_that_slept_finds_out_that_it_lost_the_store(store: Store, monkeypatch):
    sleeper = Lease(store.objects, 1, seconds=0.3)
    sleeper.create()
    monkeypatch.setattr(lease, "_machine", lambda: None)
    with owned(store) as taken:
        with pytest.raises(InputError, match=r"another analysis .* has taken the store over"):
            sleeper.check()
        sleeper.release()
        taken.check()
        content = json.loads(store.objects.read(f"{lease.FOLDER}/00000002.json") or b"")
        assert not content["released"]


def test_a_lease_that_was_deleted_is_no_reason_to_stop(store: Store):
    with owned(store) as mine:
        store.objects.delete(f"{lease.FOLDER}/{mine.number:08d}.json")
        mine.check()


def test_a_storage_that_is_away_for_a_while_is_no_reason_to_stop(store: Store, monkeypatch):
    def away(*args: object) -> None:
        raise OSError("away")

    with owned(store, seconds=0.5) as mine:
        monkeypatch.setattr("pipeline.store.objects.Objects.put", away)
        time.sleep(0.8)
        monkeypatch.undo()
        mine.check()


def test_one_of_many_that_come_at_once_wins(store: Store):
    won, refused = [], []
    barrier = threading.Barrier(8)

    def come() -> None:
        barrier.wait()
        try:
            lease._take(store.objects, 30, lambda said: None)
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
    pid = process.pid or 0
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # waits for its end, and leaves a zombie
    assert lease._started(pid) is None
    process.join()
