"""Every way in to a real `ontogeny ui`, over sockets: who asks, from which page, for what."""

import base64
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows import pages
from flows.prefect_server.registry import persistent_port, registered
from flows.server import require_server
from pipeline.errors import InputError
from tests.benchmarks.servers import free_port
from tests.flows.conftest import analysis_of
from tests.pipeline.report.site.browser import chromium

EVIL = "http://evil.example"
RUNS = "/api/flow_runs/filter"

pytestmark = pytest.mark.slow


@dataclass
class Ui:
    """A process of `ontogeny ui`: its port, folder, link, and how to ask it."""

    port: int
    home: Path
    process: subprocess.Popen[str] = field(init=False)
    link: str = ""

    @property
    def secret(self) -> str:
        return (self.home / "ontogeny-secret").read_text()

    @property
    def environment(self) -> dict[str, str]:
        others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
        return others | {"PREFECT_HOME": str(self.home)}

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ontogeny", "ui", "--port", str(self.port)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.link = self.process.stdout.readline().strip()  # printed once it answers
        assert self.link.startswith(f"http://127.0.0.1:{self.port}/"), self.link

    def ask(
        self, path: str, body: Any = None, secret: str | None = None, port: int = 0, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Ask over a socket, with exactly these headers; return status, headers and body."""
        method = headers.pop("method", "GET" if body is None else "POST")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            sent["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text

    def get(self, path: str) -> str:
        while (asked := self.ask(path, secret=self.secret))[0] == 503:
            time.sleep(0.5)
        return asked[2]

    def post(self, path: str, body: Any) -> Any:
        """Post as a page of the UI does: with the secret and a token against forged requests."""
        token = json.loads(self.get("/api/csrf-token?client=test"))["token"]
        csrf = {"Prefect_Csrf_Token": token, "Prefect_Csrf_Client": "test"}
        while (asked := self.ask(path, body, self.secret, **csrf))[0] == 503:
            time.sleep(0.5)  # the database is locked for the moment
        status, _, text = asked
        assert status < 300, (path, status, text)
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Start `ontogeny ui` in a folder that other users may read, as earlier versions left it."""
    home = tmp_path_factory.mktemp("home") / "prefect"
    home.mkdir(mode=0o755)
    (home / "prefect.db").touch(mode=0o644)
    ui = Ui(free_port(), home)
    ui.start()
    yield ui
    ui.process.kill()
    ui.process.wait()


@pytest.mark.parametrize("secret", [None, "", "ontogeny:wrong", "ontogeny"])
def test_no_answer_without_the_secret(ui: Ui, secret: str | None) -> None:
    for path in (
        "/api/admin/version", "/api/admin/settings", "/api/csrf-token?client=x", "/api/version",
        "/api/docs", "/api/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc",
        "/openapi.json", "/api/deployments/get_scheduled_flow_runs", "/api//admin/version",
    ):  # fmt: skip
        assert ui.ask(path, secret=secret)[0] == 401, path
    assert ui.ask(RUNS, {}, secret)[0] in (401, 403)


def test_the_secret_opens_the_api_and_its_health_is_told_to_all(ui: Ui) -> None:
    assert ui.ask("/api/admin/version", secret=ui.secret)[0] == 200
    assert ui.ask("/openapi.json", secret=ui.secret)[0] == 200
    assert isinstance(ui.post(RUNS, {}), list)
    assert {ui.ask(f"/api/{path}")[0] for path in ("health", "ready")} == {200}


def test_a_forged_request_is_refused_even_with_the_secret(ui: Ui) -> None:
    status, _, text = ui.ask(RUNS, {}, ui.secret)
    assert status == 403 and "CSRF" in text


@pytest.mark.parametrize("origin", [EVIL, "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_a_page_of_another_site_gets_nothing(ui: Ui, origin: str) -> None:
    preflight = {"method": "OPTIONS", "Access_Control_Request_Method": "POST"}
    for asked in (
        ui.ask(RUNS, {}, ui.secret, Origin=origin),
        ui.ask(RUNS, Origin=origin, **preflight),
        ui.ask("/api/admin/version", None, ui.secret, Origin=origin),
        ui.ask("/ontogeny-login", Origin=origin),
    ):
        assert asked[0] == 403
        assert "access-control-allow-origin" not in asked[1]


def test_our_own_pages_may_ask(ui: Ui) -> None:
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{ui.port}"
        status, headers, _ = ui.ask("/api/admin/version", None, ui.secret, Origin=origin)
        assert (status, headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", ""])
def test_a_foreign_name_for_this_machine_is_refused(ui: Ui, host: str) -> None:
    for port in (ui.port, ui.port + 1):
        for path in ("/", "/api/health", "/ontogeny-login"):
            assert ui.ask(path, None, ui.secret, port=port, Host=host)[0] == 400, (port, path)


def test_a_foreign_name_opens_no_websocket(ui: Ui) -> None:
    with pytest.raises(InvalidStatus, match="400"):
        _socket(ui, SOCKETS[0], host="evil.example")


def _socket(ui: Ui, path: str, host: str = "", **options: Any) -> Any:
    """Open a websocket to the server, in which the Host header has another name if one is given."""
    port = f":{ui.port}" if not host else ""
    opened = socket.create_connection(("127.0.0.1", ui.port))
    try:
        return connect(f"ws://{host or '127.0.0.1'}{port}{path}", sock=opened, **options)
    except BaseException:
        opened.close()
        raise


SOCKETS = ["/api/events/in", "/api/events/out", "/api/logs/out"]


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_needs_the_secret(ui: Ui, path: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        _socket(ui, path, subprotocols=["prefect"], origin=EVIL)
    with pytest.raises((ConnectionClosed, InvalidStatus)), _socket(ui, path) as plain:
        plain.send("{}")
        plain.recv(timeout=120)
    for token in (None, "", "ontogeny:wrong"):
        with (
            pytest.raises(ConnectionClosed),
            _socket(ui, path, subprotocols=["prefect"]) as opened,
        ):
            opened.send(json.dumps({"type": "auth", "token": token}))
            opened.recv(timeout=120)
    with _socket(ui, path, subprotocols=["prefect"]) as opened:
        opened.send(json.dumps({"type": "auth", "token": ui.secret}))
        assert json.loads(opened.recv(timeout=120)) == {"type": "auth_success"}


def test_only_loopback_is_listened_at(ui: Ui) -> None:
    process = psutil.Process(ui.process.pid)
    listening = [
        connection.laddr
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert sorted(address.port for address in listening) == [ui.port, ui.port + 1]
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_its_records_are_for_this_user_only(ui: Ui) -> None:
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (ui.home, *ui.home.iterdir())}
    assert {"prefect", "prefect.db", "ontogeny-secret", "ontogeny-ui-pages"} <= modes.keys()
    assert not {name: oct(mode) for name, mode in modes.items() if mode & 0o077}


@pytest.mark.parametrize("path", ["/", "/v2/dashboard", "/dashboard", "/ontogeny-login"])
def test_no_page_asks_another_host(ui: Ui, path: str) -> None:
    status, headers, text = ui.ask(path, Accept="text/html")
    if status == 307:  # to the version of the UI that is the default
        status, headers, text = ui.ask(headers["location"], Accept="text/html")
    assert status == 200 and "<html" in text
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    hosts = re.findall(r"(?:https?|wss?)://[^ ;]+", headers["content-security-policy"])
    assert {host.split("://")[1] for host in hosts} == {
        f"{name}:{ui.port}" for name in ("127.0.0.1", "localhost")
    }
    assert (headers["referrer-policy"], headers["x-frame-options"]) == ("no-referrer", "DENY")


def test_nobody_is_told_about_its_use(ui: Ui) -> None:
    settings = json.loads(ui.ask("/api/admin/settings", secret=ui.secret)[2])["server"]
    assert settings["analytics_enabled"] is False
    assert settings["ui"]["show_promotional_content"] is False


def test_the_printed_link_carries_the_secret_where_no_server_sees_it(ui: Ui) -> None:
    page, _, fragment = ui.link.partition("#")
    assert unquote(fragment) == ui.secret and len(ui.secret) > 40
    status, headers, text = ui.ask(page.removeprefix(f"http://127.0.0.1:{ui.port}"))
    assert status == 200 and headers["cache-control"] == "no-store"
    script = re.search(r'src="([^"]+)"', text)
    assert script and "prefect-password" in ui.ask(script[1])[2]


def test_a_run_with_another_secret_is_told_so(ui: Ui) -> None:
    url = {PREFECT_API_URL: f"http://127.0.0.1:{ui.port}/api"}
    with temporary_settings(url | {PREFECT_API_AUTH_STRING: ui.secret}):
        require_server()
    with (
        temporary_settings(url | {PREFECT_API_AUTH_STRING: "ontogeny:wrong"}),
        pytest.raises(InputError, match=r"another secret than yours: set PREFECT_API_AUTH_STRING"),
    ):
        require_server()


def test_a_taken_port_is_the_first_that_is_said(ui: Ui) -> None:
    for port in (ui.port, ui.port - 1):
        command = [sys.executable, "-m", "ontogeny", "ui", "--port", str(port)]
        ended = subprocess.run(command, env=ui.environment, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"port {ui.port} is in use" in ended.stderr and "--port" in ended.stderr


def test_a_second_server_leaves_the_first_registered(
    ui: Ui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(ui.home))
    with socket.create_server(("127.0.0.1", 0)) as second:
        assert persistent_port() == ui.port
        with registered(second.getsockname()[1]):
            assert persistent_port() == ui.port
        assert persistent_port() == ui.port


@pytest.fixture
def report(ui: Ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Link a report; return its path. A link in its folder leads out of it."""
    monkeypatch.setenv("PREFECT_HOME", str(ui.home))
    folder = tmp_path / "a b-report"
    (folder / "heads").mkdir(parents=True)
    (folder / "index.html").write_text("found")
    (folder / "heads" / "0.html").write_text("head 0")
    (folder / "out.html").symlink_to(ui.home / "ontogeny-secret")
    return "/" + pages.add_link(folder / "index.html")


def test_a_report_is_found_by_its_link_only(ui: Ui, report: str) -> None:
    port = ui.port + 1
    status, headers, text = ui.ask(report, port=port)
    assert (status, text) == (200, "found")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["referrer-policy"] == "no-referrer"
    folder = report.rpartition("/")[0]
    assert ui.ask(f"{folder}/heads/0.html", port=port)[2] == "head 0"
    name = folder.rpartition("-")[0]
    for guessed in (
        "/", folder, f"{folder}/", f"{folder}/heads", f"{folder}/heads/", f"{name}/index.html",
        f"{name}-00000000/index.html", f"{folder[:-1]}/index.html",
    ):  # fmt: skip
        assert ui.ask(guessed, port=port)[0] == 404, guessed


def test_the_ui_sends_its_readers_to_the_server_of_reports(ui: Ui, report: str) -> None:
    status, headers, _ = ui.ask(f"/ontogeny-reports{report}")
    assert status == 307 and headers["cache-control"] == "no-store"
    assert headers["location"] == f"http://127.0.0.1:{ui.port + 1}{report}"
    assert ui.ask(report, port=ui.port + 1)[2] == "found"
    # Behind a tunnel of both ports, the user's own are meant.
    status, headers, _ = ui.ask(f"/ontogeny-reports{report}", Host="localhost:5200")
    assert headers["location"].startswith("http://localhost:5201/")
    _, headers, _ = ui.ask(f"/ontogeny-reports{report}", Host="[::1]:5200")
    assert headers["location"].startswith("http://[::1]:5201/")
    assert ui.ask(f"/ontogeny-reports{report}", Host="localhost:99999")[0] == 400
    for path in ("//evil.example/x", "/@evil.example/", "/\\evil.example"):
        _, headers, _ = ui.ask(f"/ontogeny-reports{path}")
        assert headers["location"].startswith(f"http://127.0.0.1:{ui.port + 1}/")
    assert ui.ask(f"/ontogeny-reports{report}", Host="evil.example")[0] == 400


def test_the_link_of_an_artifact_opens_the_report_in_both_uis(ui: Ui, report: str) -> None:
    """Follow it in a browser, as one who looks at the artifacts of a past run does."""
    made = ui.post(
        "/api/artifacts/",
        {"key": "report-a", "type": "markdown", "data": f"[Report](</ontogeny-reports{report}>)"},
    )
    with chromium() as browser:
        context = browser.new_context()
        dashboard = context.new_page()
        dashboard.goto(ui.link)
        dashboard.wait_for_url("**/dashboard**")
        for root in ("/v2", ""):
            # Another page, since the UI forgets the secret if leaving a page cuts off a request.
            page = context.new_page()
            link = page.get_by_role("link", name="Report", exact=True)
            page.goto(f"http://127.0.0.1:{ui.port}{root}/artifacts/artifact/{made['id']}")
            if root:
                link.click()
            else:
                with context.expect_page() as opened:  # the older UI opens links in another tab
                    link.click()
                page = opened.value
            page.wait_for_url(f"http://127.0.0.1:{ui.port + 1}{report}")
            assert page.inner_text("body") == "found"


def test_no_path_leads_out_of_a_report(ui: Ui, report: str) -> None:
    folder, port = report.rpartition("/")[0], ui.port + 1
    secret = str(ui.home / "ontogeny-secret")
    for path in (
        "/../ontogeny-secret", f"{folder}/../../ontogeny-secret", f"{folder}/out.html",
        f"{folder}/%2e%2e/%2e%2e/ontogeny-secret", f"{folder}/..%2f..%2fontogeny-secret",
        f"{folder}/..%5c..%5contogeny-secret", f"{folder}/%252e%252e/ontogeny-secret",
        f"/{secret}", f"{folder}/{secret}", f"{folder}/{quote(secret, safe='')}",
        f"{folder}//etc/passwd",
        f"{folder}/index.html%00", f"{folder}/index.html/", f"{folder}/./index.html", "/%ff%fe/x",
    ):  # fmt: skip
        status, _, text = ui.ask(path, port=port)
        assert status == 404 and ui.secret not in text, path
    assert ui.ask(report, {}, port=port)[0] == 501  # nothing but reading


MEASURE = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()
raise RuntimeError(f"ran {Path(__file__).name}")
"""


@pytest.mark.timeout(600)
def test_a_flow_run_with_other_parameters_runs_no_code(
    ui: Ui, organisms: Path, tmp_path: Path
) -> None:
    for name in ("evil", "own"):
        (tmp_path / f"{name}.py").write_text(MEASURE)
    content = analysis_of(organisms, tmp_path / "s%t.zarr")
    content["measures"] = {f"{tmp_path}/own.py:Own": {}}
    config = tmp_path / "watched.yaml"
    config.write_text(json.dumps(content))
    foreign = {
        "checkpoints": str(tmp_path),
        "trust_remote_code": True,
        "measures": {f"{tmp_path}/evil.py:Evil": {}},
    }
    with _watching(ui, config) as watch:
        deployment = _wait_for(lambda: ui.post("/api/deployments/filter", {}))[0]
        start = f"/api/deployments/{deployment['id']}/create_flow_run"
        # The first look of the watch itself, beside which no other run may start.
        _wait_for(lambda: [run for run in ui.post("/api/flow_runs/filter", {}) if run["end_time"]])
        # The measure of the file may run, another may not.
        for changes, reason in (
            (foreign, "refused: the parameters ask to run "),
            ({}, "ran own.py"),
        ):
            asked = content | changes
            body = {"state": {"type": "SCHEDULED"}, "parameters": {"analysis": asked}}
            # From a page of another site, and from a program of another user.
            assert ui.ask(start, body, Origin=EVIL)[0] == 403
            assert ui.ask(start, body)[0] in (401, 403)
            # Even who has the secret cannot make the parameters allow code.
            ended = _ended(ui, ui.post(start, body)["id"])
            assert ended["type"] == "FAILED" and reason in ended["message"], ended
        assert [file.name for file in tmp_path.glob("*.ran")] == ["own.ran"]
        watch.terminate()
        said, errors = watch.communicate(timeout=300)
        assert (watch.returncode, errors) == (0, "")
        assert "looking for new checkpoints" in said and "the look failed: refused" in said
        assert ui.post("/api/deployments/filter", {}) == []


@contextmanager
def _watching(ui: Ui, config: Path) -> Iterator[subprocess.Popen[str]]:
    watch = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.ending", "watch", str(config), "--every", "3600"],
        cwd=Path(__file__).parents[2],
        env=ui.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield watch
    finally:
        watch.kill()
        watch.communicate()


def _wait_for(find: Any, seconds: float = 300) -> Any:
    """Return what a function finds, as soon as that is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, "nothing found"
        time.sleep(0.3)
    return found


def _ended(ui: Ui, run: str) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        found = json.loads(ui.get(f"/api/flow_runs/{run}"))["state"]
        return found if found["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return _wait_for(state)


def test_a_slot_is_free_after_a_cancelled_run_and_a_killed_server(ui: Ui) -> None:
    flow = ui.post("/api/flows/", {"name": "f"})["id"]
    limit = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    deployment = ui.post("/api/deployments/", {"name": "d", "flow_id": flow, **limit})["id"]

    def run() -> str:
        return ui.post(f"/api/deployments/{deployment}/create_flow_run", {})["id"]

    def propose(run: str, state: str) -> str:
        body = {"state": {"type": state}}
        return ui.post(f"/api/flow_runs/{run}/set_state", body)["state"]["type"]

    first, second, third = run(), run(), run()
    assert (propose(first, "PENDING"), propose(first, "RUNNING")) == ("PENDING", "RUNNING")
    assert propose(second, "PENDING") == "CANCELLED"
    children = psutil.Process(ui.process.pid).children(recursive=True)
    ui.process.kill()
    assert ui.process.wait(timeout=120) == -signal.SIGKILL
    assert ui.process.stdout and ui.process.stdout.read()  # nobody else holds it
    assert not psutil.wait_procs(children, timeout=120)[1]
    ui.start()
    assert (propose(first, "CANCELLING"), propose(first, "CANCELLED")) == (
        "CANCELLING", "CANCELLED",
    )  # fmt: skip
    assert propose(third, "PENDING") == "PENDING"
