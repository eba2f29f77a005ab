"""Each check against real servers: one that answers, one that is away, one that hangs."""

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.doctor import cluster, run_checks
from flows.doctor.services import _room

MakeAnalysis = Callable[..., Any]


def ontogeny(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check_of(name: str, analysis: Any = None) -> tuple[bool, str]:
    (one,) = (one for one in run_checks(analysis) if one.name == name)
    return one.ok, one.message


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set an environment without servers and tokens."""
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.usefixtures("no_servers")
def test_without_servers_all_checks_pass(make_analysis: MakeAnalysis, tmp_path: Path) -> None:
    config = tmp_path / "analysis.yaml"
    config.write_text(json.dumps(make_analysis().model_dump(mode="json")))
    before = sorted(tmp_path.rglob("*"))
    result = ontogeny("doctor", config, "--json")
    assert result.exit_code == 0, result.output
    checks = {one["name"]: one for one in json.loads(result.stdout)}
    assert all(one["ok"] for one in checks.values())
    assert "10 listed" in checks["checkpoints"]["message"]
    assert {"fastapi", "sqlalchemy", "certifi", "Prefect", "Ray", "store", "hub token"} <= set(
        checks
    )
    assert sorted(tmp_path.rglob("*")) == before


# Installed distributions; the one that is checked; part of its message, None if it passes.
@pytest.mark.usefixtures("no_servers")
@pytest.mark.parametrize(
    ("installed", "about", "says"),
    [
        ({"fastapi": "0.151.0"}, "fastapi", "pip install 'fastapi<0.151'"),
        ({"fastapi": "0.150.9"}, "fastapi", None),
        ({"sqlalchemy": "2.1.0b1"}, "sqlalchemy", "no scheduled run is ever created"),
        ({"sqlalchemy": "2.0.99"}, "sqlalchemy", None),
        ({"prefect": "3.9.1", "certifi": "2026.10.18"}, "certifi", "pip install 'prefect<3.9'"),
        ({"prefect": "3.9.0", "certifi": "2026.10.18"}, "certifi", None),
        ({"prefect": "3.9.1", "certifi": "2026.10.19"}, "certifi", None),
    ],
)
def test_versions_that_break(
    installed: dict[str, str],
    about: str,
    says: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.doctor.versions import check_libraries

    for name, version in installed.items():
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (one,) = (one for one in check_libraries() if one.name == about)
    assert one.ok == (says is None)
    assert (says or installed[about]) in one.message


def test_a_standing_server_answers(server: str, no_servers: None, monkeypatch: Any) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    ok, message = check_of("Prefect")
    assert ok, message
    assert f"{server} answers" in message
    assert check_of("clock")[0]


@pytest.mark.usefixtures("no_servers")
def test_servers_that_are_away_and_servers_that_hang_are_reported_soon(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.doctor.services.SECONDS", 3.0)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    result = ontogeny("doctor")
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2
    assert "http://127.0.0.1:1/api" in failed[0]
    assert "ontogeny ui" in failed[0]
    assert "127.0.0.1:1" in failed[1]
    assert "start_head.sh" in failed[1]

    monkeypatch.setenv("RAY_ADDRESS", silent)
    monkeypatch.setenv("PREFECT_API_URL", f"http://{silent}/api")
    started = time.monotonic()
    checks = {one.name: one for one in run_checks()}
    assert time.monotonic() - started < 120
    assert "no answer within 3 s" in checks["Prefect"].message
    assert not checks["Ray"].ok


@pytest.mark.usefixtures("no_servers")
def test_room_for_the_workers_is_looked_for(make_analysis: MakeAnalysis) -> None:
    workers = {"count": 3, "gpus": 100.0, "device": "cuda"}
    ok, message = check_of("Ray", make_analysis(workers=workers))
    assert not ok
    assert "3 workers ask for 3 CPUs and 300 GPUs" in message


def test_a_cluster_without_a_living_node_has_no_room() -> None:
    none = _room(None, cluster.Resources(0, 0, 0), "10.0.0.1:6379 answers", local=False)
    assert not none.ok and "with 0 nodes" in none.message and "no node is alive" in none.message
    one = _room(None, cluster.Resources(1, 2, 0), "10.0.0.1:6379 answers", local=False)
    assert one.ok and "with 1 node, 2 CPUs" in one.message


@pytest.mark.usefixtures("no_servers")
def test_places_that_cannot_be_read_or_written(make_analysis: MakeAnalysis, tmp_path: Path) -> None:
    analysis = make_analysis(
        checkpoints=str(tmp_path / "nowhere"), store="/proc/nothing-is-written-here/store.zarr"
    )
    assert not check_of("checkpoints", analysis)[0]
    ok, message = check_of("store", analysis)
    assert not ok
    assert message.startswith("/proc: ")


@pytest.fixture
def s3(no_servers: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    """Start an S3 server with the empty bucket `runs`, and set the environment for it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key-of-these-tests")
    S3FileSystem.clear_instance_cache()
    filesystem = S3FileSystem(use_listings_cache=False)
    filesystem.mkdir("runs")
    yield filesystem
    filesystem.rm("runs", recursive=True)  # all servers of a process share their buckets
    S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_store_on_s3_is_tried_and_left_as_it_was(
    s3: S3FileSystem, make_analysis: MakeAnalysis, organisms: Path
) -> None:
    s3.put(str(organisms / "run"), "runs/run", recursive=True)
    before = s3.find("runs")
    analysis = make_analysis(checkpoints="s3://runs/run", store="s3://runs/store.zarr")
    assert check_of("store", analysis) == (
        True, "s3://runs/store.zarr: creates an object only once, lists, reads and deletes it",
    )  # fmt: skip
    assert check_of("checkpoints", analysis) == (True, "s3://runs/run: 10 listed")
    assert check_of("clock", analysis)[0]
    assert s3.find("runs") == before

    elsewhere = make_analysis(store="s3://no-such-bucket/store.zarr")
    ok, message = check_of("store", elsewhere)
    assert not ok
    assert "s3://no-such-bucket/store.zarr" in message, message


class _WrongServer(BaseHTTPRequestHandler):
    """A server whose clock is an hour slow, and which refuses every token."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response_only(401)
        self.send_header("Date", formatdate(time.time() - 3600, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def wrong() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _WrongServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("no_servers")
def test_a_clock_that_is_off_and_a_token_that_is_refused(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.doctor import services

    monkeypatch.setenv("PREFECT_API_URL", f"{wrong}/api")
    ok, message = check_of("clock")
    assert not ok
    assert re.match(r"36\d\d s ahead of", message), message
    monkeypatch.setenv("HF_TOKEN", "hf_refused")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", wrong)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", wrong)
    refused = services.check_hub_token(needed=False)
    assert not refused.ok
    assert "the Hub refuses it (401)" in refused.message


def test_a_silent_ray_times_out_and_no_module_of_the_user_is_run(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise SystemError('a module of the user')")
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 3 s"):
        cluster.query_resources(silent, 3)
    assert time.monotonic() - started < 120


@pytest.mark.usefixtures("no_servers")
def test_an_address_that_is_none_fails_its_own_checks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "nowhere")
    checks = {one.name: one for one in run_checks()}
    assert [name for name, one in checks.items() if not one.ok] == ["Prefect", "clock"]
    assert "could not be checked: unknown url type" in checks["clock"].message
    assert checks["Ray"].ok


@pytest.mark.usefixtures("no_servers")
def test_a_check_that_hangs_does_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("flows.doctor.SECONDS", 0.5)
    monkeypatch.setattr("flows.doctor.disks.check_disks", lambda _: ended.wait(60) and [])
    checks = {one.name: one for one in run_checks()}
    ended.set()
    assert "no answer within 1 s" in checks["disks"].message
    assert checks["ports"].ok


@pytest.mark.usefixtures("no_servers")
def test_folders_and_packages_of_the_environment_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file/prefect"))
    ok, message = check_of("environment")
    assert not ok and str(tmp_path / "file/prefect") in message
    ok, message = check_of("packages")
    assert ok and f"{tmp_path / 'pipeline'}, of the same name, is not used" in message


def test_a_port_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.doctor import environment

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(environment, "_UI_PORT", listening.getsockname()[1])
        (check,) = environment.check_ports()
    assert check.ok and "in use" in check.message


def test_a_cache_that_cannot_hold_a_checkpoint_is_a_fault(
    s3: S3FileSystem, make_analysis: MakeAnalysis, organisms: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from pipeline.analysis.preflight import preflight

    s3.put(str(organisms / "run"), "runs/run", recursive=True)
    measures = ["weight_norm"]
    analysis = make_analysis(checkpoints="s3://runs/run", measures=measures, cache={"bytes": 100})
    (fault,) = (one for one in preflight(analysis).faults.found if one.about == "cache")
    assert "100 bytes are allowed, but the weights of step 0 have" in fault.message
    assert "9 more such steps" in fault.message
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "file"))
    analysis = make_analysis(checkpoints="s3://runs/run", measures=measures)
    (fault,) = (one for one in preflight(analysis).faults.found if one.about == "cache")
    assert "ONTOGENY_CACHE" in fault.message


@pytest.mark.usefixtures("no_servers")
def test_a_secret_that_others_can_read_is_told(tmp_path: Path) -> None:
    from flows.doctor import environment

    assert list(environment.check_secret()) == []
    file = tmp_path / "prefect/ontogeny-secret"
    file.parent.mkdir(exist_ok=True)
    file.write_text("ontogeny:" + 32 * "x")
    file.chmod(0o644)
    (check,) = environment.check_secret()
    assert not check.ok and "expected 600" in check.message
    file.chmod(0o600)
    assert list(environment.check_secret()) == []
