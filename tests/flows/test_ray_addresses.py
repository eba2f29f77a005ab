"""A Ray that a run starts is reached from this machine only, and only with its token."""

import ipaddress
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray

import flows.cluster
from flows.cluster import connect_to_ray, dashboard_line
from flows.doctor.cluster import query_resources
from pipeline.config import Workers

pytestmark = pytest.mark.timeout(600)  # on a busy machine Ray takes a minute to start


@pytest.fixture
def actor() -> Iterator[None]:
    """Run an actor in the Ray of this process, so that all kinds of Ray's processes exist."""
    connect_to_ray(Workers(count=1))

    @ray.remote
    class Waits:
        def ready(self) -> None: ...

    actor = Waits.remote()
    ray.get(actor.ready.remote())  # type: ignore[attr-defined]
    yield
    ray.kill(actor)


def listening() -> dict[tuple[str, int], str]:
    """Return the addresses at which this process and its descendants listen, and their names."""
    found = {}
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            sockets, name = process.net_connections("inet"), process.name()
        except psutil.NoSuchProcess:
            continue
        for one in sockets:
            if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and one.laddr:
                found[one.laddr.ip, one.laddr.port] = name
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.usefixtures("actor")
def test_all_processes_of_a_local_ray_listen_on_loopback_only() -> None:
    found = listening()
    assert {"raylet", "gcs_server", "ray::DashboardAgent"} <= set(found.values())
    others = {address: name for address, name in found.items() if not is_loopback(address[0])}
    assert not others


def test_the_dashboard_is_served_on_request_to_holders_of_the_token() -> None:
    connect_to_ray(Workers(count=1, dashboard=True))
    where = r"Ray's dashboard: (http://127\.0\.0\.1:\d+); it asks for the token in (\S+)"
    url, token = re.fullmatch(where, dashboard_line()).groups()  # type: ignore[union-attr]
    assert Path(token).stat().st_mode & 0o077 == 0
    jobs = f"{url}/api/jobs/"
    assert httpx.get(jobs, trust_env=False).status_code == 401
    secret = {"Authorization": f"Bearer {Path(token).read_text()}"}
    assert httpx.get(jobs, headers=secret, trust_env=False).json() is not None
    assert not {address for address in listening() if not is_loopback(address[0])}


def test_memory_and_spilling_of_a_cluster_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with what Ray's own init is given for a Ray of ours."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(flows.cluster, "_has_room", lambda workers: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect_to_ray(Workers())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    connect_to_ray(Workers(dashboard=True))
    ours, clusters = given
    assert ours["object_store_memory"] == 200 * 2**20 and ours["_system_config"]
    assert set(clusters) == {"address", "job_config", "log_to_driver", "logging_level"}


@pytest.mark.usefixtures("actor")
def test_a_client_with_another_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ["RAY_AUTH_TOKEN"]
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # find it on loopback
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(RuntimeError, match="it refuses our token"):
        query_resources(address, 120)
