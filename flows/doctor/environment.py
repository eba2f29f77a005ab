"""Checks of this machine's environment: folders, limits, shared memory, packages and ports."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from flows import environment
from flows.doctor.check import Check
from flows.prefect_server import LOCAL
from flows.prefect_server.secret import has_secret, server_secret
from ontogeny import PACKAGES
from pipeline.errors import InputError

_SHARED_MEMORY = Path("/dev/shm")
_OBJECT_STORE = 200 * 2**20  # bytes that Ray asks for, see `flows.workers`
_UI_PORT = 4200


def check_environment() -> Iterator[Check]:
    """Yield a check for each fault of the environment, or one that says what is used."""
    faults = environment.faults()
    for fault in faults:
        yield Check("environment", False, fault)
    if not faults:
        home = os.environ.get("PREFECT_HOME") or Path.home() / ".prefect"
        message = f"temporary files in {environment.temporary_folder()}, records in {home}"
        yield Check("environment", True, message)


def check_shared_memory() -> Iterator[Check]:
    """Yield what is free of the shared memory, without which Ray is slow but works."""
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        message = f"{_SHARED_MEMORY}: {free / 2**20:,.0f} MiB free"
        if free < _OBJECT_STORE:
            message += ", Ray uses temporary files instead: start the container with --shm-size=1g"
        yield Check("shared memory", True, message)


def check_packages() -> Iterator[Check]:
    """Yield a check that our packages are imported; other ones of their names are told."""
    for name in PACKAGES:
        ours = Path(str(sys.modules[name].__file__)).parent
        expected = Path(str(sys.modules["ontogeny"].__file__)).resolve().parent / name
        if ours.resolve() != expected:
            remedy = "run the command `ontogeny`, or remove the other from PYTHONPATH"
            yield Check("packages", False, f"{name} is {ours}, expected {expected}: {remedy}")
        elif other := _other(name, ours):
            message = f"{name} is {ours}; {other}, of the same name, is not used by this command"
            yield Check("packages", True, message)


def _other(name: str, ours: Path) -> Path | None:
    """Return a module of this name that Python would import in place of ours, if there is one."""
    folders = ["", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    for folder in dict.fromkeys(Path(one).absolute() for one in folders):
        for found in (folder / name, folder / f"{name}.py"):
            if found.exists() and found.resolve() != ours.resolve():
                return found
    return None


def check_secret() -> Iterator[Check]:
    """Yield a check that only this user knows the secret of the Prefect servers, once it exists."""
    if has_secret():
        try:
            server_secret()
        except InputError as error:
            yield Check("secret", False, str(error))


def check_ports() -> Iterator[Check]:
    """Yield whether the ports of `ontogeny ui` are free, or used by something."""
    used = [str(port) for port in (_UI_PORT, _UI_PORT + 1) if _is_used(port)]
    ports = f"{_UI_PORT} and {_UI_PORT + 1}"
    message = f"{ports}, those of `ontogeny ui`, are free"
    if used:
        message = f"{' and '.join(used)} in use: by `ontogeny ui`, or give that another by --port"
    yield Check("ports", True, message)


def _is_used(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((LOCAL, port)) == 0
