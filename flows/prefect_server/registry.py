"""The persistent servers of this user on this machine, each in a file of its own."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from flows.prefect_server import LOCAL
from flows.prefect_server.records import made_home, prefect_home

_PREFIX = "ontogeny-ui-"
_LISTENS = "0A"  # the state LISTEN in Linux's table of sockets


@contextmanager
def registered(port: int) -> Iterator[None]:
    """Let this user's runs find the server of this process during the block."""
    # The name of the machine: several may share the folder. Other servers keep their own files.
    file = made_home() / f"{_PREFIX}{socket.gethostname()}-{os.getpid()}.json"
    file.write_text(json.dumps({"process": os.getpid(), "port": port}), encoding="utf-8")
    file.chmod(0o600)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def persistent_port() -> int | None:
    """Return the port of the persistent server that was started first and runs; None if none."""
    return next(iter(_running_ports()), None)


def is_own_server(url: str) -> bool:
    """Return whether a URL is that of the API of a persistent server of this user, here."""
    with suppress(ValueError):
        parts = urlsplit(url)
        local = parts.hostname in (LOCAL, "localhost")
        return local and parts.scheme == "http" and parts.port in _running_ports()
    return False


def _running_ports() -> list[int]:
    try:
        files = list(prefect_home().glob(f"{_PREFIX}{socket.gethostname()}-*.json"))
    except OSError:  # a home that cannot be made is a fault that `flows.environment` names
        return []
    return [port for file in sorted(files, key=_started) if (port := _port_in(file))]


def _started(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime
    return 0


def _port_in(file: Path) -> int | None:
    """Return the port in the file of a server; None if that has ended."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        os.kill(state["process"], 0)  # sends no signal: raises OSError if the process has ended
        return state["port"] if _is_listening(state["port"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_listening(port: int) -> bool:
    """Return whether this user listens at a port: others' programs must not get the secret."""
    try:
        table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # not on Linux
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex((LOCAL, port)) == 0
    fields = [line.split() for line in table]
    users = {f[7] for f in fields if f[3] == _LISTENS and int(f[1].rpartition(":")[2], 16) == port}
    return users == {str(os.geteuid())}
