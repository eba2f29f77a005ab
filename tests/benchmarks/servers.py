"""A standing Prefect server for a benchmark, in a home of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def standing_server(home: Path | None = None, port: int | None = None) -> Iterator[dict[str, str]]:
    """The environment that names a server which runs during the block."""
    import flows  # noqa: F401  (the settings under which a server records every task run)

    with tempfile.TemporaryDirectory() as folder:
        port = port or free_port()
        environment = {
            "PREFECT_HOME": str(home or folder),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        }
        process = start_server(environment, port)
        try:
            yield environment
        finally:
            process.terminate()
            process.wait(timeout=60)


def start_server(environment: dict[str, str], port: int) -> subprocess.Popen:
    """Start a server and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    health = f"{environment['PREFECT_API_URL']}/health"
    while process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return process
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the Prefect server ended with exit code {process.returncode}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
