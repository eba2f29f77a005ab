"""The server embedded in a run: a child process on a port of its own that ends with its parent."""

import atexit
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.collector import collect_nothing_at_exit, uncollected_imports
from flows.prefect_server import LOCAL, api_url
from flows.prefect_server.parent import end_with
from flows.prefect_server.records import protect_records
from flows.prefect_server.settings import client_settings, server_settings
from pipeline.errors import InputError

_SECONDS_TO_END = 5
# The child imports what its parent imports, whatever the working folder and PYTHONPATH hold.
_PROGRAM = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_path(sys.argv.pop(1))['import_own_packages'](); "
    "from flows.prefect_server.embedded import main; main()"
)
_START = Path(__file__).parents[2] / "ontogeny.py"
_EMBEDDED = {
    "PREFECT_SERVER_UI_ENABLED": "0",
    # Prefect's own mark of an embedded server: without services that only a persistent one needs.
    "PREFECT__SERVER_EPHEMERAL": "1",
}

_urls: set[str] = set()  # of the servers that this process has started


@dataclass(frozen=True)
class _Launched:
    """A server that may not answer yet, and where it writes its errors."""

    server: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]


_starting: list[_Launched] = []


def start_embedded_server() -> None:
    """Start a server that ends with this process, and let Prefect in this process use it.

    Raises InputError with the reason if it does not start.
    """
    launch_server()
    await_server()


def launch_server() -> None:
    """Begin to start a server; see `start_embedded_server`. `await_server` waits for it."""
    protect_records()
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `await_server`)
    # The socket is bound here: no other program can take the port before the server does.
    with socket.create_server((LOCAL, 0)) as listening:
        port = listening.getsockname()[1]
        server = _start_process(listening, port, log)
    # With its only copy in the server, a request fails at once if that has ended.
    atexit.register(_end, server)
    _starting.append(_Launched(server, port, log))
    _urls.add(api_url(port))
    os.environ.update(client_settings(api_url(port)))
    _reread_settings()


def _reread_settings() -> None:
    if "prefect" in sys.modules:  # it has read its settings when it was imported
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def await_server() -> None:
    """Wait until the server that was launched answers, if it is not known to; see above."""
    while _starting:
        launched = _starting.pop()
        with launched.log:
            try:
                _wait_until_ready(launched.server, launched.port, launched.log)
            except InputError:
                for name in client_settings(""):  # another run in this process may start one
                    os.environ.pop(name, None)
                _reread_settings()
                raise


def is_embedded_server(url: str) -> bool:
    """Return whether a URL is that of the API of a server that this process has started."""
    return url in _urls


def _start_process(listening: socket.socket, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    arguments = [json.dumps(sys.path), str(_START), str(listening.fileno()), str(os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, *arguments],
        env={**server_settings(port), **_EMBEDDED},
        pass_fds=[listening.fileno()],
        # Not the caller's files: who reads those to their end would wait for the server's end.
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        # Signals of the terminal reach only this process, which still has to report its own end.
        start_new_session=True,
    )


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    import httpx
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    deadline = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    with httpx.Client(trust_env=False, timeout=5) as client:  # no proxy leads to this machine
        while server.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"{api_url(port)}/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    _end(server)
    log.seek(0)
    reason = _last_error(log.read().decode(errors="replace").splitlines())
    raise InputError(
        f"the Prefect server of this run did not start ({reason}): correct that, or run without "
        "one by --serial"
    )


def _last_error(lines: list[str]) -> str:
    """Return the line of an output that names its last exception, else its last line."""
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return next(reversed(errors or lines), "it said nothing in time")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    """Serve on the socket that the parent has bound until the parent ends it, or has ended.

    The arguments are the socket's file descriptor and the parent's process id.
    """
    descriptor, parent = (int(argument) for argument in sys.argv[1:])
    os.umask(0o077)
    end_with(parent, _SECONDS_TO_END)
    with uncollected_imports():
        from flows.prefect_server.serving import make_server

        server = make_server()
    collect_nothing_at_exit()
    server.run(sockets=[socket.socket(fileno=descriptor)])
