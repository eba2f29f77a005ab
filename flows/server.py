"""The Prefect server that a run reports to: a persistent one, or one embedded in the run."""

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


def use_persistent_server() -> None:
    """Set PREFECT_API_URL to the user's `ontogeny ui` if that runs and the variable is not set.

    Call this before Prefect is imported, because Prefect then reads its settings.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    if port := _persistent_port():
        os.environ["PREFECT_API_URL"] = _api_url(port)


def serve_ui(port: int) -> int:
    """Run a Prefect server with its UI until it ends or is interrupted; return its exit code.

    The reports of its runs are served at the next port. Raises InputError if a port is in use.
    """
    for needed in (port, port + 1):
        if _is_listening(needed):
            raise InputError(
                f"port {needed} is in use, maybe by another `ontogeny ui`: open "
                f"http://{LOCAL}:{port}, or choose another with --port (reports use the next one)"
            )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOCAL]
    others = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        # Without this variable the pages of the UI send their requests to the default port.
        env={**others, "PREFECT_SERVER_UI_API_URL": _api_url(port)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal reaches only this process
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server too, as Ctrl-C does
    with _state_recorded(server.pid, port), pages.serve_folder(_reports_folder(), LOCAL, port + 1):
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0


def report_url(page: Path) -> str:
    """Return the URL of a report: served by `ontogeny ui` if that shows this run, else of the file.

    Browsers do not follow links from a page of a server to a local file.
    """
    from prefect.settings import PREFECT_API_URL

    port = _persistent_port()
    if port is None or PREFECT_API_URL.value() != _api_url(port):
        return page.resolve().as_uri()
    return f"http://{LOCAL}:{port + 1}/{pages.add_link(page, _reports_folder())}"


def require_server() -> None:
    """Start the embedded server, or raise InputError if a configured one is unreachable."""
    from prefect.settings import PREFECT_API_URL

    # A Ctrl-C in the terminal also reaches the embedded server, which would end before this process
    # can report that the run was interrupted. A child inherits the signals that are blocked here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        reachable = is_server_reachable()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if not reachable:
        raise InputError(
            f"the Prefect server at {PREFECT_API_URL.value()} does not answer: start it, name "
            "another in PREFECT_API_URL, or run without one by --serial"
        )


@contextmanager
def without_retries() -> Iterator[None]:
    """Do not retry failed requests during the block: Prefect's retries take minutes."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def is_server_reachable() -> bool:
    """Return whether the configured server can be reached now, even if it answers with an error."""
    import httpx
    from prefect.client.orchestration import get_client

    with without_retries(), get_client(sync_client=True) as client:
        return not isinstance(client.api_healthcheck(), httpx.TransportError)


@contextmanager
def _state_recorded(process: int, port: int) -> Iterator[None]:
    file = _state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"process": process, "port": port}), encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _persistent_port() -> int | None:
    """Return the port of the persistent server; None if it does not listen (yet)."""
    try:
        state = json.loads(_state_file().read_text(encoding="utf-8"))
        os.kill(state["process"], 0)  # sends no signal: raises OSError if the process has ended
        return state["port"] if _is_listening(state["port"]) else None
    except (OSError, ValueError, KeyError):
        return None


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOCAL, port)) == 0


def _api_url(port: int) -> str:
    return f"http://{LOCAL}:{port}/api"


def _state_file() -> Path:
    """Return the file with process id and port of this user's persistent server."""
    return _prefect_home() / "ontogeny-ui.json"


def _reports_folder() -> Path:
    """Return the folder of links to the reports that the persistent server serves."""
    return _prefect_home() / "ontogeny-reports"


def _prefect_home() -> Path:
    """Return Prefect's own folder."""
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
