"""The Prefect server that a run reports to: one that stands, or one that ends with the run."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import pages
from pipeline.errors import InputError

LOCAL = "127.0.0.1"


def use_standing_server() -> None:
    """Report to the user's own `ontogeny ui` if it runs, unless PREFECT_API_URL names a server.

    To be called before Prefect is imported.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    if port := _standing_port():
        os.environ["PREFECT_API_URL"] = _api(port)


def serve_ui(port: int) -> int:
    """Run a Prefect server with its UI until it is interrupted or ended; returns its exit code.

    The reports of the runs that it shows are at the next port. InputError where one is taken.
    """
    for needed in (port, port + 1):
        if _listens(needed):
            raise InputError(
                f"port {needed} is taken, maybe by an `ontogeny ui` that runs: open "
                f"http://{LOCAL}:{port}, or choose another with --port (reports take the next one)"
            )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOCAL]
    others = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        # Its pages would ask the server at the default port.
        env={**others, "PREFECT_SERVER_UI_API_URL": _api(port)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, with its server
    with _noticed(server.pid, port), pages.served(_reports(), LOCAL, port + 1):
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0


def link_to(page: Path) -> str:
    """Where a browser finds a report: with the user's `ontogeny ui` if that shows this run.

    Browsers follow no link from a page of a server to a file.
    """
    from prefect.settings import PREFECT_API_URL

    port = _standing_port()
    if port is None or PREFECT_API_URL.value() != _api(port):
        return page.resolve().as_uri()
    return f"http://{LOCAL}:{port + 1}/{pages.offer(page, _reports())}"


def reach_server() -> None:
    """Start the embedded server if none is configured, out of reach of the terminal's Ctrl-C.

    It would end before this process has told it that the run was interrupted. What a process is
    started with blocked stays blocked in it. InputError where the one that is configured is away.
    """
    from prefect.settings import PREFECT_API_URL

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        there = server_answers()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if not there:
        raise InputError(
            f"the Prefect server at {PREFECT_API_URL.value()} does not answer: start it, name "
            "another in PREFECT_API_URL, or do without one by --serial"
        )


@contextmanager
def asked_once() -> Iterator[None]:
    """In the block a request that fails is not repeated: repeating takes minutes."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def server_answers() -> bool:
    """Whether the server that is configured can be reached now, whatever it answers."""
    import httpx
    from prefect.client.orchestration import get_client

    with asked_once(), get_client(sync_client=True) as client:
        return not isinstance(client.api_healthcheck(), httpx.TransportError)


@contextmanager
def _noticed(process: int, port: int) -> Iterator[None]:
    notice = _notice()
    notice.parent.mkdir(parents=True, exist_ok=True)
    notice.write_text(json.dumps({"process": process, "port": port}), encoding="utf-8")
    try:
        yield
    finally:
        notice.unlink(missing_ok=True)


def _standing_port() -> int | None:
    """Where the server of the notice listens; None where it does not, or not yet."""
    try:
        standing = json.loads(_notice().read_text(encoding="utf-8"))
        os.kill(standing["process"], 0)
        return standing["port"] if _listens(standing["port"]) else None
    except (OSError, ValueError, KeyError):
        return None


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex((LOCAL, port)) == 0


def _api(port: int) -> str:
    return f"http://{LOCAL}:{port}/api"


def _notice() -> Path:
    """Where this user's standing server says where it is."""
    return _home() / "ontogeny-ui.json"


def _reports() -> Path:
    """The reports that this user's standing server shows."""
    return _home() / "ontogeny-reports"


def _home() -> Path:
    """Prefect's own folder."""
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
