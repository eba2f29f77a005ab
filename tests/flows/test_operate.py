"""Tests of what an operator configures: the persistent server, deployments, automations, names."""

import importlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import pages
from flows.artifacts import run_name
from flows.observer import PrefectObserver
from flows.prefect_server.registry import registered
from flows.prefect_server.secret import server_secret
from flows.server import report_link, require_server, use_persistent_server
from pipeline.analysis.summary import Summary
from pipeline.analysis.survey import survey
from pipeline.checkpoints import LeftOut
from pipeline.config import Analysis
from pipeline.errors import InputError
from tests.benchmarks.servers import free_port

MakeAnalysis = Callable[..., Any]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
    return tmp_path


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def addressed() -> tuple[str, str]:
    """Return the server and the secret that Prefect in this process would use."""
    return os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]


@pytest.mark.usefixtures("home")
def test_a_run_reports_to_the_persistent_server_with_the_secret(listener: int) -> None:
    with registered(listener):
        use_persistent_server()
        assert addressed() == (f"http://127.0.0.1:{listener}/api", server_secret())


def test_looking_for_a_server_creates_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home / "absent"))
    use_persistent_server()
    assert addressed() == ("", "") and not list(home.iterdir())


def test_a_server_that_has_ended_is_ignored(home: Path, listener: int) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file = home / f"ontogeny-ui-{socket.gethostname()}-1.json"
    # A process has that number, and nothing listens at the port of the second.
    for state in ({"process": ended.pid, "port": listener}, {"process": os.getpid(), "port": 1}):
        file.write_text(json.dumps(state))
        use_persistent_server()
        assert addressed() == ("", "")
    for damaged in ("{", "[]", '{"process": "x", "port": null}'):
        file.write_text(damaged)
        use_persistent_server()
        assert addressed() == ("", "")


@pytest.mark.usefixtures("home")
def test_a_configured_server_takes_precedence_and_gets_no_secret_of_ours(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(listener):
        for foreign in (
            "http://elsewhere/api", f"http://127.0.0.1:{listener + 1}/api",
            f"http://evil.example:{listener}/api", f"https://127.0.0.1:{listener}/api",
            f"http://127.0.0.1:{listener}@evil.example/api", "http://127.0.0.1:x/api",
        ):  # fmt: skip
            monkeypatch.setenv("PREFECT_API_URL", foreign)
            use_persistent_server()
            assert addressed() == (foreign, "")
        own = f"http://localhost:{listener}/api"
        monkeypatch.setenv("PREFECT_API_URL", own)
        use_persistent_server()
        assert addressed() == (own, server_secret())
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "mine")
        use_persistent_server()
        assert addressed() == (own, "mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program of another user")
@pytest.mark.usefixtures("home")
def test_a_program_of_another_user_gets_no_secret() -> None:
    port = free_port()
    code = (
        "import os, socket; os.setuid(12345); "
        f"s = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        with registered(port):
            use_persistent_server()
            assert addressed() == ("", "")
        other.communicate(b"\n")


def test_a_server_that_is_away_is_named_at_once() -> None:
    away = f"http://127.0.0.1:{free_port()}/api"
    with (
        temporary_settings({PREFECT_API_URL: away}),
        pytest.raises(InputError, match=f"{away} does not answer.*--serial"),
    ):
        require_server()


@pytest.mark.usefixtures("home")
def test_a_report_is_linked_at_an_address_that_a_browser_can_open(
    listener: int, tmp_path: Path
) -> None:
    page = tmp_path / "a b-report" / "index.html"
    page.parent.mkdir()
    page.write_text("found")
    with registered(listener):
        with temporary_settings({PREFECT_API_URL: "http://elsewhere/api"}):
            assert report_link(page) == page.as_uri()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{listener}/api"}):
            link = report_link(page)
            assert link == report_link(page)
    path = link.removeprefix("/ontogeny-reports/")
    assert path != link
    with socket.create_server(("127.0.0.1", 0)) as reports, pages.served(reports):
        url = f"http://127.0.0.1:{reports.getsockname()[1]}/{path}"
        assert httpx.get(url).text == "found"
        page.write_text("found again")
        assert httpx.get(url).text == "found again"


def test_a_run_is_named_by_its_store_and_its_steps() -> None:
    def named(**changes: Any) -> str:
        content = {"checkpoints": "c", "store": "/a/pythia.zarr", "measures": ["weight_norm"]}
        return run_name(Analysis.model_validate(content | changes))

    assert named() == "pythia: all steps"
    assert named(select={"every": 4}) == "pythia: every 4 checkpoints"
    assert named(select={"log_spaced": 20}) == "pythia: 20 log-spaced steps"
    assert named(select={"steps": [8, 512, 64]}) == "pythia: steps 8 to 512"
    assert named(store="s3://bucket/runs/pythia/") == "pythia: all steps"


def test_deployments_name_flows_that_take_their_parameters() -> None:
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.flows import load_flow_from_entrypoint

    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    deployments = {one.name: one for one in PrefectYamlModel.model_validate(content).deployments}
    assert deployments.keys() == {"on-demand", "watch", "after-a-change", "nightly"}
    # At a terminal, `prefect deploy --all` would ask about each that is left out.
    assert content["pull"] == [] and all("schedules" in one for one in content["deployments"])
    for name, one in deployments.items():
        assert one.entrypoint and one.work_pool and one.work_pool.name == "ontogeny"
        flow = load_flow_from_entrypoint(one.entrypoint, use_placeholder_flow=False)
        if name != "on-demand":
            assert one.schedules
            flow.validate_parameters(one.parameters)
        # The UI makes its form from the typed parameters.
        assert set(flow.parameters.model_dump()["properties"]) >= set(one.parameters)
    form = load_flow_from_entrypoint("flows.analyze.analyze").parameters.model_dump()
    assert {"Analysis", "Workers", "TextInput"} <= form["definitions"].keys()


def test_a_watch_needs_a_persistent_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.watching import watch_run

    analysis = Analysis.model_validate({"checkpoints": "c", "store": "s", "measures": ["x"]})
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(InputError, match="ontogeny ui"),
    ):
        watch_run(analysis, 60)


class Healthy(BaseHTTPRequestHandler):
    """Answers as a Prefect server that has just started."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith("/health") else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_watch_waits_for_a_server_that_is_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.watch_log import WatchLog
    from flows.watching import _serve

    analysis = Analysis.model_validate({"checkpoints": "c", "store": "s", "measures": ["x"]})
    port, servers = free_port(), []

    def start_server(_: float) -> None:
        servers.append(ThreadingHTTPServer(("127.0.0.1", port), Healthy))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    # The server comes back while `_serve` waits.
    monkeypatch.setattr("flows.watching.time", SimpleNamespace(sleep=start_server))
    away = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away):
        log = WatchLog("analyze/watch s")
        log.look()
        log.look()
        assert _serve(analysis, "watch s", 60, log)
        log.look()
    servers[0].shutdown()
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "the Prefect server does not answer: waiting for it", "the Prefect server answers again",
    ]  # fmt: skip


def test_a_served_run_prints_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = LeftOut("unfinished", "checkpoint-9", "no weights yet; changed 3 s ago")
    summary = Summary("grown.zarr", complete=3, left_out=(left_out,))
    awaited, served = PrefectObserver("s", lambda *_: None), PrefectObserver("s")
    for observer in (awaited, served):
        observer.new = ["An induction head formed."]
    awaited.ended(summary)
    assert awaited.summary is summary and not capsys.readouterr().out
    served.ended(summary)
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "grown.zarr: 3 checkpoints: 0 computed, 3 already complete; left out: 1 unfinished",
        "left out, unfinished: 1 (checkpoint-9: no weights yet; changed 3 s ago)",
        "An induction head formed.",
    ]


def test_a_flow_logs_what_it_leaves_out(
    organisms: Path, make_analysis: MakeAnalysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, log = tmp_path / "run", logging.getLogger("of-a-flow")
    shutil.copytree(organisms / "run", run)
    shutil.copytree(run / "step-8", run / "my-run-8")
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr("flows.observer.get_run_logger", lambda: log)
    surveyed = survey(make_analysis(checkpoints=str(run), audit="off"))
    PrefectObserver("s").surveyed(surveyed)
    assert [one.name for one in surveyed.left_out] == ["my-run-8"]
    assert said[0].startswith("left out, name not understood: 1 (my-run-8): expected step-N")


@pytest.mark.parametrize("name", ["analyze", "reanalyze", "verify"])
def test_a_served_flow_can_be_sent_to_its_process(name: str) -> None:
    served = getattr(importlib.import_module(f"flows.{name}"), name)
    assert cloudpickle.loads(cloudpickle.dumps(served)).name == served.name
