"""Ownership of a store: one coordinator at a time, for as long as it lives.

A lease is a numbered object, `_lease/<number>.json`, with a deadline that its owner keeps moving.
Whoever finds none, or one whose deadline has passed, or whose process is known to be dead, makes
the next number; as an object is made once, one of several wins. An owner that finds a higher
number than its own has lost the store. Clocks of different machines are taken to agree within
a third of the lease.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.store.objects import Objects

FOLDER = "_lease"
SECONDS = 60.0  # after so long, at most, the store of a dead owner can be taken over


@contextmanager
def owned(store: Store, seconds: float = SECONDS) -> Iterator["Lease"]:
    """Own an existing store while the block runs. InputError while another process owns it.

    The lease is renewed from a thread; call `check` before what only an owner may do after a
    long time (a laptop that slept may have lost it).
    """
    store.catalogue()
    lease = _take(store.objects, seconds)
    ended = threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(ended,), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        lease.release()


@dataclass
class Lease:
    """A lease that this process took."""

    objects: Objects
    number: int
    seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _until: float = 0.0  # on this process's own clock, so that an owner never outlives its deadline

    def check(self) -> None:
        """InputError if the store is no longer this process's own."""
        if time.monotonic() > self._until:
            raise InputError(
                f"{self.objects.uri}: another analysis may own the store by now, because this one "
                f"could not renew its lease for {self.seconds:g} s: what is committed is safe, run "
                "it again"
            )

    def keep(self, ended: threading.Event) -> None:
        """Renew until told to end, or until the lease is lost."""
        while not ended.wait(self.seconds / 3):
            # The storage may be away for a while; check() knows when that was too long.
            with suppress(OSError, InputError):
                if not self.renew():
                    return

    def renew(self) -> bool:
        """Move the deadline; False where another owner has taken the store."""
        found = _last(self.objects)
        if time.monotonic() > self._until or (found and found[0] != self.number):
            self._until = 0.0
            return False
        until = time.monotonic() + self.seconds
        self.objects.replace(_key(self.number), self.content())
        self._until = until
        return True

    def create(self) -> None:
        """Take the number; FileExistsError where another was quicker."""
        until = time.monotonic() + self.seconds
        try:
            self.objects.create(_key(self.number), self.content())
        except FileExistsError:
            # The answer to our own request may have been lost, and the request sent again.
            found = json.loads(self.objects.read(_key(self.number)) or b"{}")
            if found.get("token") != self.token:
                raise
        self._until = until

    def release(self) -> None:
        """Let the next owner take the store at once."""
        if time.monotonic() < self._until:
            self._until = 0.0
            self.objects.replace(_key(self.number), self.content(released=True))

    def content(self, released: bool = False) -> bytes:
        """Who owns the store, and until when, as JSON."""
        owner = {**_this_process(), "token": self.token, "released": released}
        return json.dumps({**owner, "deadline": time.time() + self.seconds}).encode()


def _take(objects: Objects, seconds: float) -> Lease:
    found = _last(objects)
    if found and (why := _held(found[1])):
        raise InputError(f"{objects.uri}: {why}")
    lease = Lease(objects, found[0] + 1 if found else 1, seconds)
    try:
        lease.create()
    except FileExistsError:
        raise InputError(
            f"{objects.uri}: another analysis took the store a moment ago: wait until it has ended"
        ) from None
    for key in objects.list(FOLDER):
        if _number(key) < lease.number:
            objects.delete(key)
    return lease


def _held(content: Mapping[str, Any]) -> str | None:
    """Why the store cannot be taken; None where it can."""
    left = content["deadline"] - time.time()
    if content["released"] or left <= 0 or _is_dead(content):
        return None
    return (
        f"another analysis owns the store (process {content['process']} on {content['host']}): "
        f"wait until it has ended; if it was killed, the store is free in {left:.0f} s"
    )


def _last(objects: Objects) -> tuple[int, dict[str, Any]] | None:
    """The highest number and its content."""
    for key in sorted(objects.list(FOLDER), key=_number, reverse=True):
        if (content := objects.read(key)) is not None:
            return _number(key), json.loads(content)
    return None


def _key(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _number(key: str) -> int:
    return int(Path(key).stem)


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the owner ran here and is gone. Elsewhere nobody can tell before the deadline."""
    here = _machine()
    return (
        here is not None
        and owner["machine"] == here
        and _started(owner["process"]) != owner["started"]
    )


def _machine() -> str | None:
    """This boot of this machine and this name space of process ids, where Linux tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(process: int) -> int | None:
    """When a process began, in ticks since boot; None where there is no such process."""
    # Not psutil's time of creation: it counts from 1970, and so changes when the clock is set.
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended, though its parent has not asked for its exit code yet.
    return None if fields[0] == "Z" else int(fields[19])
