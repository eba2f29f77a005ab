"""A Ray cluster of two nodes on one machine: jobs are submitted to it, and it loses a node."""

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

from flows.doctor.cluster import ask

MACHINES = Path(__file__).parents[3] / "infra" / "machines"

pytestmark = [pytest.mark.usefixtures("server"), pytest.mark.timeout(900)]


def free_ports() -> int:
    """The first of two thousand ports, below those that the system gives out."""
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
    """What `start_head.sh` or `start_worker.sh` has started."""

    process: subprocess.Popen

    def kill(self) -> None:
        """End all of it at once, as when a machine loses its power."""
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
            made = Cluster(address, dashboard, environment, head, worker)
            waited = made.run(sys.executable, MACHINES / "await_nodes.py", address, "2", "120")
            assert waited.returncode == 0, waited.stderr
            assert token.stat().st_mode & 0o077 == 0
            yield made
        finally:
            for node in reversed(nodes):
                if node.process.poll() is None:
                    node.kill()


def of_ray(cluster: Cluster, **environment: str) -> dict[str, Any]:
    """What the doctor finds of Ray."""
    done = cluster.run(sys.executable, "-m", "ontogeny", "doctor", "--json", **environment)
    (found,) = (one for one in json.loads(done.stdout) if one["what"] == "Ray")
    return found


def test_the_doctor_sees_its_nodes_and_who_lacks_the_token(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of_ray(cluster, RAY_ADDRESS=cluster.address)
    assert found["good"], found["said"]
    assert "2 nodes, 2 CPUs and 0 GPUs" in found["said"]

    (tmp_path / "token").write_text("0" * 64)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(RuntimeError, match="it refuses our token"):
        ask(cluster.address, seconds=60)


def test_a_submitted_job_completes_though_a_node_is_lost(
    cluster: Cluster,
    make_analysis: Callable[..., Any],
    comparable: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    from pipeline import analyze

    slow = {"kind": "repeated", "block_length": 10, "sequences": 4000}
    analysis = make_analysis(inputs={"repeated": slow}, measures=["head_scores"])
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(analysis.model_dump(mode="json")))
    command = ["submit", "ray", str(config), "--address", cluster.dashboard, "--send"]
    job = subprocess.Popen(
        [sys.executable, "-m", "ontogeny", *command],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    rows = "packs/*/head_scores/*"
    while job.poll() is None and len(list(Path(analysis.store).glob(rows))) < 2:
        time.sleep(0.05)
    cluster.worker.kill()
    lost_at = len(list(Path(analysis.store).glob(rows)))
    said, _ = job.communicate(timeout=200)
    assert job.returncode == 0, said
    assert 2 <= lost_at < 10
    assert "10 checkpoints: 10 computed, 0 already complete" in said

    alone = analysis.model_copy(update={"store": str(tmp_path / "alone.zarr")})
    analyze(alone)
    assert comparable(analysis.store).identical(comparable(alone.store))
