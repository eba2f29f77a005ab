"""Records of the deployments that `ontogeny watch` serves, by which abandoned ones are found.

A watch that is killed cannot delete its deployment. Each watch therefore keeps a file in Prefect's
folder, which names the deployment and its server, and holds a lock on it. The kernel releases the
lock however the process ends: a file that can be locked belongs to a watch that is gone.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from flows.prefect_server.records import made_home
from pipeline.errors import InputError

_PREFIX = "ontogeny-watch-"


@contextmanager
def recorded(deployment: str, server: str) -> Iterator[None]:
    """Keep a record of the deployment that this process serves during the block.

    Raises InputError if another process of this user serves it: the two would delete each other's.
    """
    served = {"deployment": deployment, "server": server}
    for file in _files():
        with _unlocked(file) as stream:
            record = _content(file)
            if stream is None and served.items() <= record.items():
                raise InputError(
                    f"{deployment}: process {record.get('process')} on {record.get('host')} "
                    "already watches for this store: end that first"
                )
    file = made_home() / f"{_PREFIX}{socket.gethostname()}-{os.getpid()}.json"
    with file.open("w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        file.chmod(0o600)
        json.dump({**served, "process": os.getpid(), "host": socket.gethostname()}, stream)
        stream.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def abandoned(server: str) -> Iterator[str]:
    """Yield each deployment on a server whose watch is gone; forget it after that.

    A record stays if the caller raises, and so does that of a deployment on another server.
    """
    for file in _files():
        with _unlocked(file) as stream:
            record = _content(file) if stream else {}
            if record.get("server") == server:
                yield str(record["deployment"])
                file.unlink(missing_ok=True)


def _files() -> list[Path]:
    return sorted(made_home().glob(f"{_PREFIX}*.json"))


@contextmanager
def _unlocked(file: Path) -> Iterator[IO[str] | None]:
    """Yield a file, locked; None if a process holds it or it cannot be locked."""
    with ExitStack() as opened:
        stream = None
        # An OSError also where the file is gone or its system has no locks: nothing is known then.
        with suppress(OSError):
            found = opened.enter_context(file.open(encoding="utf-8"))
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream = found
        yield stream


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) and "deployment" in content else {}
    except (OSError, ValueError):
        return {}
