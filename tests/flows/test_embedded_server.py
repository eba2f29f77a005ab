"""The server of a run: it needs the secret, and ends with the run even if that is killed."""

import base64
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flows.prefect_server.embedded import _last_error

pytestmark = pytest.mark.slow

RUN = """
import os
import sys

import flows

sys.path[:0] = os.environ.get("FOREIGN", "").split()  # found first by the server, if by name
from flows.server import require_server
from prefect.client.orchestration import get_client

require_server()
with get_client(sync_client=True) as client:
    print(os.environ["PREFECT_API_URL"], client.api_version(), flush=True)
input()
"""


def start(home: Path, **environment: str) -> subprocess.Popen[str]:
    others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**others, "PREFECT_HOME": str(home), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def status(url: str, secret: str) -> int:
    token = base64.b64encode(secret.encode()).decode()
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.timeout(600)
def test_the_server_of_a_run_ends_with_it(tmp_path: Path) -> None:
    home, foreign = tmp_path / "home", tmp_path / "foreign"
    for package in ("flows", "pipeline"):
        (foreign / package).mkdir(parents=True)
        (foreign / package / "__init__.py").write_text("raise SystemExit('foreign')")
    run = start(home, FOREIGN=str(foreign))
    # Beside it, one whose database cannot be opened.
    broken = start(
        tmp_path, PREFECT_API_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////absent/prefect.db"
    )
    assert run.stdout
    url = run.stdout.readline().split()[0]
    children = psutil.Process(run.pid).children(recursive=True)
    listening = [c for one in children for c in one.net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}

    assert status(f"{url}/admin/version", "ontogeny:wrong") == 401
    assert status(f"{url}/admin/version", (home / "ontogeny-secret").read_text()) == 200
    assert not [f.name for f in (home, *home.iterdir()) if f.stat().st_mode & 0o077]

    run.kill()
    run.communicate(timeout=120)  # nobody else holds its output
    psutil.wait_procs(children, timeout=120)
    assert not [child for child in children if child.is_running()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0))

    _, said = broken.communicate(timeout=300)
    assert broken.returncode == 1
    sentence = said.strip().splitlines()[-1]
    assert "did not start (" in sentence and "unable to open database file" in sentence, said


def test_the_reason_is_the_last_exception() -> None:
    assert (
        _last_error(["Traceback", "a.b.Error: x", " (Background)", "ERROR: end"]) == "a.b.Error: x"
    )
    assert _last_error(["ERROR: end"]) == "ERROR: end"
    assert _last_error([]) == "it said nothing in time"
