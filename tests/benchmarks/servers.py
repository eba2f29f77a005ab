"""Prefect servers for benchmarks and tests, each with its own home."""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def persistent_server(
    home: Path | None = None, port: int | None = None
) -> Iterator[dict[str, str]]:
    """Run a server during the block; yield the environment of its clients."""
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
    """Start a server and wait until it answers. Raises RuntimeError with its last output."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                return process
            time.sleep(0.3)
        process.kill()
        log.seek(0)
        raise RuntimeError(f"the Prefect server did not start: {log.read().decode()[-2000:]}")


def free_port() -> int:
    """Return a free port between two free ones: `ontogeny ui` takes the next one, too.

    Below the ports that the system gives to connections, so that none takes it later.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        try:
            with ExitStack() as bound:
                for one in (port - 1, port, port + 1):
                    bound.enter_context(socket.create_server(("127.0.0.1", one)))
        except OSError:
            continue
        return port
    raise RuntimeError("there are no three free ports in a row")
