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

from pipeline.errors import InputError

LOCAL = "127.0.0.1"


def use_standing_server() -> None:
    """Report to the user's own `ontogeny ui` if it runs, unless PREFECT_API_URL names a server.

    To be called before Prefect is imported.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    if port := _standing_port():
        os.environ["PREFECT_API_URL"] = f"http://{LOCAL}:{port}/api"


def serve_ui(port: int) -> int:
    """Run a Prefect server with its UI until it is interrupted or ended; returns its exit code.

    InputError where the port is taken.
    """
    if _answers(port):
        raise InputError(
            f"port {port} is taken, maybe by an `ontogeny ui` that runs: open "
            f"http://{LOCAL}:{port}, or choose another with --port"
        )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOCAL]
    others = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        # Its pages would ask the server at the default port.
        env={**others, "PREFECT_SERVER_UI_API_URL": f"http://{LOCAL}:{port}/api"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, with its server
    with _noticed(server.pid, port):
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return 0


def reach_server() -> None:
    """Start the embedded server if none is configured, out of reach of the terminal's Ctrl-C.

    It would end before this process has told it that the run was interrupted. What a process is
    started with blocked stays blocked in it.
    """
    from prefect.client.orchestration import get_client

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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
        return standing["port"] if _answers(standing["port"]) else None
    except (OSError, ValueError, KeyError):
        return None


def _answers(port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex((LOCAL, port)) == 0


def _notice() -> Path:
    """Where this user's standing server says where it is: in Prefect's own folder."""
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "ontogeny-ui.json"
