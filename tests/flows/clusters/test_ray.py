"""A Ray cluster of two nodes on one machine, which runs submitted jobs and loses a node."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.doctor.cluster import query_resources

MACHINES = Path(__file__).parents[3] / "flows" / "machines"

pytestmark = [pytest.mark.usefixtures("server"), pytest.mark.timeout(900)]


def free_ports() -> int:
    """Return the first of two thousand free ports, below the ephemeral range."""
    for first in range(10000, 20000, 2000):
        try:
            for port in (*range(first, first + 9), *range(first + 1000, first + 1009)):
                with closing(socket.create_server(("", port))):
                    pass
        except OSError:
            continue
        return first
    raise RuntimeError("no two thousand free ports between 10000 and 19999")


@dataclass
class Node:
    """A node that `start_head.sh` or `start_worker.sh` has started."""

    process: subprocess.Popen

    def kill(self) -> None:
        """Kill all processes of the node at once, as a power failure does."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@dataclass
class Cluster:
    address: str
    dashboard: str
    environment: dict[str, str]
    head: Node
    worker: Node
    join: Callable[[], Node]

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            list(map(str, command)),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # A short folder of its own: the paths of sockets are limited, and a Ray that is started in the
    # usual folder is joined by whoever looks for one there.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        first, nodes = free_ports(), []
        token = Path(folder) / "token"
        environment = {
            **os.environ,
            "RAY_TMPDIR": folder,
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
            environment.pop(name, None)

        def start(*command: str, first: int) -> Node:
            with (Path(folder) / f"{first}.log").open("w") as log:
                node = Node(
                    subprocess.Popen(
                        [MACHINES / command[0], *command[1:], "--block", "--num-cpus=1"],
                        env=environment | {"ONTOGENY_RAY_PORTS": str(first)},
                        stdout=log,
                        stderr=log,
                    )
                )
            nodes.append(node)
            return node

        address = f"127.0.0.1:{first}"
        try:
            head = start("start_head.sh", first=first)
            while not token.exists():
                time.sleep(0.1)
            worker = start("start_worker.sh", address, first=first + 1000)
            dashboard = f"http://127.0.0.1:{first + 7}"

            def join() -> Node:
                return start("start_worker.sh", address, first=free_ports())

            made = Cluster(address, dashboard, environment, head, worker, join)
            waited = made.run(sys.executable, MACHINES / "await_nodes.py", address, "2", "300")
            assert waited.returncode == 0, waited.stderr
            assert token.stat().st_mode & 0o077 == 0
            yield made
        finally:
            for node in reversed(nodes):
                if node.process.poll() is None:
                    node.kill()


def check_ray(cluster: Cluster, **environment: str) -> dict[str, Any]:
    """Return the check of Ray by `ontogeny doctor`."""
    done = cluster.run(sys.executable, "-m", "ontogeny", "doctor", "--json", **environment)
    (check,) = (one for one in json.loads(done.stdout) if one["name"] == "Ray")
    return check


def test_the_doctor_sees_its_nodes_and_who_lacks_the_token(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_ray(cluster, RAY_ADDRESS=cluster.address)
    assert check["ok"], check["message"]
    assert "2 nodes, 2 CPUs and 0 GPUs" in check["message"]

    (tmp_path / "token").write_text("0" * 64)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(RuntimeError, match="it refuses our token"):
        query_resources(cluster.address, seconds=60)


# Each worker enters its process id, and waits for the gate to open. The variable and the file come
# from the job's runtime environment.
GATE = '''
import os, time
from functools import cache
from pathlib import Path
import numpy as np
from pipeline import Measure, Variable

@cache  # nodes on one machine share the folder of the job's files, and clear it when they end
def marker():
    return Path("marker.txt").read_text()

class Gate(Measure):
    """The largest weight in absolute value, once the gate is open."""
    name = "gate"
    version = 1
    default_input = None
    variables = (Variable("largest", ("step",), "1", "Largest absolute weight."),)

    def compute(self, context):
        gate = Path(os.environ["GATE"])
        (gate / marker() / str(os.getpid())).touch()
        until = time.monotonic() + 300
        while not (gate / "open").exists() and time.monotonic() < until:
            time.sleep(0.1)
        largest = max(float(w.abs().max()) for w in context.weights.values())
        return {"largest": np.array(largest)}
'''


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Make the gate, a working folder for jobs with its marker, and their runtime environment."""
    (tmp_path / "gate" / "entered").mkdir(parents=True)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "marker.txt").write_text("entered")
    (tmp_path / "gate.py").write_text(GATE)
    variables = {"GATE": str(tmp_path / "gate")}
    content = {"working_dir": "code", "env_vars": variables}
    (tmp_path / "env.yaml").write_text(json.dumps(content))
    return tmp_path / "gate"


def wait_until(condition: Callable[[], bool], job: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_submitted_job_uses_nodes_that_join_and_leave(
    cluster: Cluster,
    make_analysis: Callable[..., Any],
    comparable: Callable[[str], Any],
    gate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two nodes have room for two of three workers; a third joins, and then one is lost."""
    from pipeline import analyze

    analysis = make_analysis(
        measures=[f"{tmp_path / 'gate.py'}:Gate"],
        inputs={},
        workers={"count": 1, "max_count": 3, "dashboard": True},
    )
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    command = ["submit", "ray", str(config), "--address", cluster.dashboard, "--send"]
    command += ["--runtime-env", str(tmp_path / "env.yaml")]
    job = subprocess.Popen(
        [sys.executable, "-m", "ontogeny", *command],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def entered(count: int) -> Callable[[], bool]:
        return lambda: len(list((gate / "entered").iterdir())) >= count

    wait_until(entered(2), job)
    asked = cluster.run("ray", "status", "--address", cluster.address, RAY_AUTH_MODE="token")
    # This is what an autoscaler reads.
    assert "{'CPU': 1.0}: 1+ pending tasks/actors" in asked.stdout, asked
    cluster.join()
    wait_until(entered(3), job)
    cluster.worker.kill()
    (gate / "open").touch()
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert "10 checkpoints: 10 computed, 0 already complete" in said
    assert f"Ray's dashboard: {cluster.dashboard}" in said
    lines = ("starting…", "starting 3 workers", "10 of 10 checkpoints")
    places = [said.index(f"analyse: {line}") for line in lines]
    assert places == sorted(places)

    monkeypatch.setenv("GATE", str(gate))
    monkeypatch.chdir(tmp_path / "code")
    alone = analysis.model_copy(update={"store": str(tmp_path / "alone.zarr")})
    analyze(alone)
    assert comparable(analysis.store).identical(comparable(alone.store))
