"""Tests of what an operator configures: the persistent server, deployments, automations, names."""

import importlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import pages
from flows.artifacts import run_name
from flows.observer import PrefectObserver
from flows.server import report_url, require_server, serve_ui, use_persistent_server
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
    return tmp_path


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def write_state(home: Path, process: int, port: int) -> None:
    (home / "ontogeny-ui.json").write_text(json.dumps({"process": process, "port": port}))


def test_a_run_reports_to_the_persistent_server(home: Path, listener: int) -> None:
    write_state(home, os.getpid(), listener)
    use_persistent_server()
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{listener}/api"


def test_a_stale_state_file_is_ignored(home: Path, listener: int) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_state(home, ended.pid, listener)
    use_persistent_server()
    assert os.environ["PREFECT_API_URL"] == ""
    write_state(home, os.getpid(), 1)  # a process with this number lives, nothing listens there
    use_persistent_server()
    assert os.environ["PREFECT_API_URL"] == ""
    (home / "ontogeny-ui.json").write_text("{")
    use_persistent_server()
    assert os.environ["PREFECT_API_URL"] == ""


def test_a_configured_server_takes_precedence(
    home: Path, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(home, os.getpid(), listener)
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    use_persistent_server()
    assert os.environ["PREFECT_API_URL"] == "http://elsewhere/api"


def test_a_port_in_use_is_refused(home: Path, listener: int) -> None:
    with pytest.raises(InputError, match=f"port {listener} is in use.*--port"):
        serve_ui(listener)
    assert not (home / "ontogeny-ui.json").exists()


def test_a_server_that_is_away_is_named_at_once() -> None:
    away = f"http://127.0.0.1:{free_port()}/api"
    with (
        temporary_settings({PREFECT_API_URL: away}),
        pytest.raises(InputError, match=f"{away} does not answer.*--serial"),
    ):
        require_server()


def test_a_report_is_linked_at_an_address_that_a_browser_can_open(
    home: Path, listener: int, tmp_path: Path
) -> None:
    page = tmp_path / "a b-report" / "index.html"
    page.parent.mkdir()
    page.write_text("found")
    write_state(home, os.getpid(), listener)
    with temporary_settings({PREFECT_API_URL: "http://elsewhere/api"}):
        assert report_url(page) == page.as_uri()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{listener}/api"}):
        link = report_url(page)
        assert link == report_url(page)
    address, _, path = link.removeprefix("http://").partition("/")
    assert address == f"127.0.0.1:{listener + 1}"
    with pages.serve_folder(home / "ontogeny-reports", "127.0.0.1", port := free_port()):
        assert httpx.get(f"http://127.0.0.1:{port}/{path}").text == "found"
        page.write_text("found again")
        assert httpx.get(f"http://127.0.0.1:{port}/{path}").text == "found again"
        assert httpx.get(f"http://127.0.0.1:{port}/../ontogeny-ui.json").status_code == 404


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


def test_a_served_run_prints_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = LeftOut("unfinished", "checkpoint-9", "no weights yet; changed 3 s ago")
    summary = Summary("grown.zarr", complete=3, left_out=(left_out,))
    awaited, served = PrefectObserver(lambda *_: None), PrefectObserver()
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
    shutil.copytree(run / "step-8", run / "ckpt-8")
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr("flows.observer.get_run_logger", lambda: log)
    surveyed = survey(make_analysis(checkpoints=str(run), audit="off"))
    PrefectObserver().surveyed(surveyed)
    assert [one.name for one in surveyed.left_out] == ["ckpt-8"]
    assert said[0].startswith("left out, name not understood: 1 (ckpt-8): expected step-N")


@pytest.mark.parametrize("name", ["analyze", "reanalyze", "verify"])
def test_a_served_flow_can_be_sent_to_its_process(name: str) -> None:
    served = getattr(importlib.import_module(f"flows.{name}"), name)
    assert cloudpickle.loads(cloudpickle.dumps(served)).name == served.name
