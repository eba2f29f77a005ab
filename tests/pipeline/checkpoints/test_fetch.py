import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.checkpoints import Checkpoint, list_checkpoints
from pipeline.checkpoints.cache import cache_folder
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.fetch_room import Room
from pipeline.checkpoints.places import place_of
from pipeline.errors import CheckpointError
from pipeline.models.weights import read_weights
from tests.pipeline.checkpoints.conftest import folder_of


@pytest.fixture
def remote(hub, write_checkpoint, tmp_path) -> list[Checkpoint]:
    for step in range(6):
        write_checkpoint(tmp_path / f"run/step-{step}", step)
    hub.add_run("owner/name", tmp_path / "run")
    return list_checkpoints("hf://owner/name")


def on_disk() -> int:
    """Return the number of fetched checkpoints on this machine's disk."""
    return len(list((cache_folder() / "copies").glob("*/*/*.safetensors")))


def test_a_local_checkpoint_is_its_own_folder(tmp_path, write_checkpoint):
    folder = write_checkpoint(tmp_path / "run/step-0")
    with Copies().of(list_checkpoints(str(tmp_path / "run"))[0]) as copy:
        assert folder_of(copy) == folder
    assert folder.is_dir()


def test_nothing_is_fetched_before_the_folder_is_asked_for(hub, remote):
    hub.forget()
    with Copies().of(remote[0]) as copy:
        assert not hub.requests
        assert copy.parts == copy.parts
        asked = len(hub.requests)
        assert folder_of(copy).is_dir() and len(hub.requests) == asked


def test_a_copy_goes_when_it_is_released_even_after_an_error(remote):
    copies = Copies()
    for checkpoint in remote:
        with pytest.raises(ZeroDivisionError), copies.of(checkpoint) as copy:
            assert folder_of(copy).is_dir() and on_disk() == 1
            raise ZeroDivisionError
        assert on_disk() == 0


def test_there_are_never_more_copies_than_allowed(remote):
    copies, most, threads = Copies(most=2), [], []
    two = threading.Barrier(2, timeout=120)

    def use(checkpoint: Checkpoint) -> None:
        with copies.of(checkpoint) as copy:
            assert folder_of(copy).is_dir()
            two.wait()  # so that two are there at once, however slow the machine is
            time.sleep(0.05)  # in which a third would come
            most.append(on_disk())

    for checkpoint in remote * 2:
        threads.append(threading.Thread(target=use, args=(checkpoint,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(most) == 12 and max(most) == 2 and on_disk() == 0


def test_the_bytes_of_all_copies_stay_within_their_limit(remote):
    size = sum(file.size for file in place_of(remote[0].uri).files_of([remote[0].uri])[0].values()
               if file.name.endswith(".safetensors"))  # fmt: skip
    copies, most = Copies(most=9, most_bytes=2 * size + 1), []
    two = threading.Barrier(2, timeout=120)

    def use(checkpoint: Checkpoint) -> None:
        with copies.of(checkpoint) as copy:
            assert folder_of(copy).is_dir()
            two.wait()  # so that two are there at once, however slow the machine is
            time.sleep(0.05)  # in which a third would come
            most.append(on_disk())

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(use, remote))
    assert len(most) == 6 and max(most) == 2 and on_disk() == 0


def test_a_checkpoint_beyond_the_limit_is_refused_without_delaying_others(remote):
    copies = Copies(most_bytes=10)
    with (
        pytest.raises(
            CheckpointError, match=rf"{remote[0].uri}: its weights have \d+ bytes, `cache"
        ),
        copies.of(remote[0]) as copy,
    ):
        _ = copy.parts


def test_an_error_about_a_copy_names_the_checkpoint(hub, remote, tmp_path):
    path = tmp_path / "run/step-0/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    hub.add_run("owner/name", tmp_path / "run")
    broken = list_checkpoints("hf://owner/name")[0]
    with (
        pytest.raises(CheckpointError, match=rf"^{broken.uri}/model.safetensors: is truncated"),
        Copies().of(broken) as copy,
    ):
        read_weights(copy.parts)


def test_a_disk_without_room_is_said_before_anything_is_fetched(hub, remote, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    hub.forget()
    with pytest.raises(OSError, match="1 bytes are free, 2"), Copies().of(remote[0]) as copy:
        _ = copy.parts
    assert not hub.paths(containing="/resolve/")


_HOLD = """
import sys, time
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.fetch import Copies
from pipeline.checkpoints.places import place_of
with Copies().of(Checkpoint(0, sys.argv[1])) as copy:
    print(next(iter(copy.parts.files.values())).parent, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_worker_left_is_removed_and_a_living_ones_is_not(remote):
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLD, remote[0].uri], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        folders = [
            Path(str(holder.stdout and holder.stdout.readline().strip())) for holder in holders
        ]
        assert all(folder.is_dir() for folder in folders)
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        with Copies().of(remote[1]) as copy:
            assert folder_of(copy).is_dir()
            assert [folder.exists() for folder in folders] == [False, True]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def test_copies_that_an_ended_thread_made_are_not_removed_by_the_next(remote):
    first = Room(1, None, None)
    made = []
    thread = threading.Thread(target=lambda: made.append(first.folder_for(1, "hf://")))
    thread.start()
    thread.join()
    with Copies().of(remote[0]) as copy:
        assert folder_of(copy).is_dir()
    assert made[0].is_dir()
