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

_SHARES = 16  # of the ports: processes of one pytest that never get the same
_given: set[int] = set()


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
        deadline = time.monotonic() + 300
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

    Below the ports that the system gives to connections, so that none takes it later. It is not
    given again, neither here nor in another process of the same pytest.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + 3 * (process % _SHARES)
    own = [port for port in range(first, 32_000, 3 * _SHARES) if port not in _given]
    random.SystemRandom().shuffle(own)  # whatever tests seed: other processes try other ports
    for port in own:
        try:
            with ExitStack() as bound:
                for one in (port - 1, port, port + 1):
                    bound.enter_context(socket.create_server(("127.0.0.1", one)))
        except OSError:
            continue
        _given.add(port)
        return port
    raise RuntimeError("there are no three free ports in a row")
