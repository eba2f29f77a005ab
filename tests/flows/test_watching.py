"""Deployments of watches that are killed, and looks that are skipped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from flows.watch_log import WatchLog
from flows.watch_records import abandoned, recorded
from flows.watching import delete_abandoned, deployment_name
from pipeline.errors import InputError

ROOT = Path(__file__).parents[2]
SERVER = "http://127.0.0.1:1/api"
HOLDER = f"""
import sys
from flows.watch_records import recorded
with recorded(sys.argv[1], {SERVER!r}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


@contextmanager
def holder(deployment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that serves a deployment, as far as the records are concerned."""
    command = [sys.executable, "-c", HOLDER, deployment]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_only_the_deployment_of_a_killed_watch_is_abandoned(home: Path) -> None:
    with holder("watch a") as one, holder("watch b"):
        assert not list(abandoned(SERVER))
        one.kill()
        one.wait()
        assert not list(abandoned("http://127.0.0.1:2/api"))
        assert list(abandoned(SERVER)) == ["watch a"]
        assert not list(abandoned(SERVER)), "it is forgotten once it is deleted"
        refused = pytest.raises(InputError, match="already watches for this store")
        with refused, recorded("watch b", SERVER):
            pass


def test_a_record_stays_if_deleting_fails(home: Path) -> None:
    with holder("watch a"):
        pass
    with temporary_settings({PREFECT_API_URL: SERVER}):  # where no server is
        delete_abandoned(SERVER)
    assert list(abandoned(SERVER)) == ["watch a"]


def test_damaged_records_are_left_alone(home: Path) -> None:
    for number, text in enumerate(("", "{", "[]", '{"server": 1}', "\x00")):
        (home / f"ontogeny-watch-h-{number}.json").write_text(text)
    assert not list(abandoned(SERVER))
    with recorded("watch a", SERVER):
        assert len(list(home.iterdir())) == 6


@pytest.fixture
def command(make_analysis: Callable[..., Any], tmp_path: Path) -> list[str]:
    """Return the command that watches a run, into a store in the test's folder."""
    config = tmp_path / "watched.yaml"
    config.write_text(json.dumps(make_analysis().model_dump(mode="json", exclude_unset=True)))
    return [sys.executable, "-m", "tests.flows.ending", "watch", str(config), "--every", "3600"]


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Return the name of the deployment of `command`."""
    return f"analyze/{deployment_name(str(tmp_path / 'store.zarr'))}"


def test_a_killed_watch_leaves_no_deployment(server: str, command: list[str], name: str) -> None:
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as watch,
        get_client(sync_client=True) as client,
    ):
        try:
            wait_for(lambda: is_there(client, name))
            delete_abandoned(server)
            assert is_there(client, name), "its watch is alive"
        finally:
            watch.send_signal(signal.SIGKILL)
        watch.wait()
        assert is_there(client, name)
        delete_abandoned(server)
        assert not is_there(client, name)
    assert not list(Path(os.environ["PREFECT_HOME"]).glob("ontogeny-watch-*"))


@pytest.mark.usefixtures("server")
def test_a_terminated_watch_ends_where_sigint_is_ignored(command: list[str], name: str) -> None:
    """Start it as a script does in its background."""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(ignoring, cwd=ROOT, stdout=pipe, stderr=pipe) as watch,
        get_client(sync_client=True) as client,
    ):
        assert watch.stdout and watch.stderr
        try:
            assert any(b"looking for new checkpoints" in line for line in watch.stdout)
            looking = psutil.Process(watch.pid).children(recursive=True)
            assert looking and is_there(client, name)
            watch.terminate()
            assert watch.wait(300) == 0
            # While Ray starts, its own handler may raise where Python prints and ignores that.
            said = watch.stderr.read()
            assert not said or (b"sigterm_handler" in said and said.endswith(b"SystemExit: 15\n"))
            assert not is_there(client, name)
            assert not psutil.wait_procs(looking, timeout=120)[1]
        finally:
            watch.kill()


def is_there(client: Any, deployment: str) -> bool:
    try:
        return bool(client.read_deployment_by_name(deployment))
    except ObjectNotFound:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.usefixtures("server")
def test_a_skipped_look_is_shown_as_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    limit = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("looks")
        content = {"name": "watch s", "flow_id": str(flow), **limit}
        deployment = client.request("POST", "/deployments/", json=content).json()["id"]
        log = WatchLog("looks/watch s")
        first, second = (client.create_flow_run_from_deployment(deployment).id for _ in range(2))
        for run in (first, second):
            client.set_flow_run_state(run, Pending())
        log.look()
        log.look()
        state = client.read_flow_run(second).state
        assert state and (state.name, state.type) == ("Skipped", "CANCELLED")
        assert state.message == "the look before is still in progress"
        assert client.read_flow_run(first).state_name == "Pending"
        client.delete_deployment(deployment)
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["skipped: the look before is still in progress"]
