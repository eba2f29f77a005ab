"""The store on a real S3 server, which checks secrets, policies and preconditions."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.s3.ceph import PROGRAMS, Ceph, running
from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.lease import owned
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from tests.benchmarks import kills
from tests.pipeline.store import killed, synthetic
from tests.pipeline.store.synthetic import losses, scores

if missing := [name for name in PROGRAMS if not any(
    (Path(folder) / name).exists() for folder in os.environ["PATH"].split(":")
)]:  # fmt: skip
    pytest.skip(f"needs a component: {', '.join(missing)}", allow_module_level=True)

URI = "s3://stores/run.zarr"
TEMPLATES = [scores(), losses()]


@pytest.fixture(scope="module")
def server() -> Iterator[Ceph]:
    with running() as ceph:
        fsspec.filesystem("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir("stores")
        yield ceph


@pytest.fixture(scope="module")
def store(server: Ceph) -> Store:
    made = synthetic.run(URI, TEMPLATES, range(4))
    publish(made)
    return made


def test_what_is_stored_is_what_was_computed(store: Store, tmp_path: Path):
    assert verify(store).faults == ()
    here = synthetic.run(tmp_path / "run.zarr", TEMPLATES, range(4))
    assert open_run(store).identical(open_run(here))


def test_the_gateway_counts_few_requests(server: Ceph, store: Store):
    before = len(server.requests())
    open_run(store)
    assert [method for method, _ in server.requests()[before:]] == ["GET"] * 3


def test_of_twelve_that_create_at_once_one_wins(store: Store):
    barrier = threading.Barrier(12)

    def create(number: int) -> int:
        barrier.wait()
        try:
            store.objects.create("race", str(number).encode())
        except FileExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(create, range(12))) == 1


def test_processes_writing_at_once_lose_nothing(server: Ceph):
    store = synthetic.run("s3://stores/crowd.zarr", [scores()], [])
    number, steps = store.version().number, list(range(16))
    killed.side_by_side(killed.write_rows, [(store.uri, steps[i::4], number) for i in range(4)])
    assert open_run(store)["scores"]["step"].values.tolist() == steps
    assert verify(store).faults == ()


def test_a_gateway_that_is_killed_is_waited_for(server: Ceph):
    store = synthetic.run("s3://stores/killed.zarr", [scores()], range(2))
    server.kill_gateway()
    back = threading.Timer(2.0, server.start_gateway)
    back.start()
    synthetic.run(store.uri, [scores()], range(5))
    back.join()
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []
    assert open_run(store)["scores"].sizes["step"] == 5


@pytest.mark.timeout(900)
def test_ten_kills_on_disk_and_here_harm_nothing(server: Ceph, tmp_path: Path):
    places, small = [str(tmp_path), "s3://stores/kills"], ((range(2), 0), (range(3), 1))
    counts = kills.run(10, 0, places, server, longest=0.5, phases=small)
    assert counts.kills == 10 and counts.harmless
    assert counts.rows_committed >= 2 * 2 * (2 + 3), "stores, measures, steps"


def test_the_store_has_one_owner(store: Store):
    with owned(store), pytest.raises(InputError, match="another analysis owns"), owned(store):
        pass


def test_a_wrong_secret_is_one_sentence(store: Store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://stores/run.zarr: access is denied") as refused:
        open_run(store)
    assert "wrong" not in str(refused.value)
    command = CliRunner().invoke(app, ["query", URI, "scores/induction"])
    assert (command.exit_code, command.stdout) == (2, "")
    assert "s3://stores/run.zarr: access is denied" in command.stderr
    monkeypatch.undo()
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_bucket_that_may_only_be_read_is_one_sentence(server: Ceph):
    uri = "s3://readonly/run.zarr"
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir("readonly")
    store = synthetic.run(uri, [scores()], range(2))
    denied = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::readonly/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    filesystem.call_s3("put_bucket_policy", Bucket="readonly", Policy=policy)
    assert synthetic.wrong_rows(open_run(store), [scores()]) == []
    with pytest.raises(InputError, match=r"s3://readonly/run.zarr: access is denied"):
        synthetic.run(uri, [scores()], range(3))
    with pytest.raises(InputError, match="access is denied"), owned(store):
        pass
    assert CliRunner().invoke(app, ["query", uri, "scores/count"]).exit_code == 0
    command = CliRunner().invoke(app, ["store", "trajectories", uri])
    assert (command.exit_code, command.stdout) == (2, "")
    assert "s3://readonly/run.zarr: access is denied" in command.stderr
