"""Ownership of a store: one coordinator at a time, for as long as it lives.

A lease is a numbered object, `_lease/<number>.json`, with a deadline that its owner keeps moving.
A process that finds none, or one whose deadline has passed, or whose owner is known to be dead,
creates the next number; creation succeeds only once, so one of several processes wins. An owner
that finds a higher number than its own has lost the store. Clocks of different machines are
assumed to agree within a third of the lease.
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
SECONDS = 60.0  # the longest time until another process can take over the store of a dead owner


@contextmanager
def owned(store: Store, seconds: float = SECONDS) -> Iterator["Lease"]:
    """Own an existing store while the block runs. Raises InputError while another process owns it.

    A thread renews the lease. After long work, call `check` before an action that requires
    ownership: a laptop that slept may have lost the lease.
    """
    store.catalogue()  # raises where there is no store, before a lease is written
    lease = _take(store.objects, seconds)
    ended = threading.Event()
    # A daemon, so that it does not keep a process alive whose main thread has died.
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
    """A lease that this process holds, or held."""

    objects: Objects
    number: int
    seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _until: float = 0.0  # of time.monotonic(), which no change of the system's clock moves

    def check(self) -> None:
        """Raise InputError if this process may no longer own the store."""
        if time.monotonic() > self._until:
            raise InputError(
                f"{self.objects.uri}: another analysis may own the store by now, because this one "
                f"could not renew its lease for {self.seconds:g} s: what is committed is safe, run "
                "it again"
            )

    def keep(self, ended: threading.Event) -> None:
        """Renew until `ended` is set or the lease is lost."""
        # Three times per lease, so that one failed renewal does not lose it.
        while not ended.wait(self.seconds / 3):
            # The storage may be unavailable for a while; check() raises if it was for too long.
            with suppress(OSError, InputError):
                if not self.renew():
                    return

    def renew(self) -> bool:
        """Extend the deadline; return False where another owner has taken the store."""
        found = _last(self.objects)
        # Once expired it stays lost, even if nobody took it: another process may be about to.
        if time.monotonic() > self._until or (found and found[0] != self.number):
            self._until = 0.0
            return False
        # Before the request, however long it takes: an owner must not outlive its stored deadline.
        until = time.monotonic() + self.seconds
        self.objects.replace(_key(self.number), self.content())
        self._until = until
        return True

    def create(self) -> None:
        """Create the lease's object. Raises FileExistsError where another process was faster."""
        until = time.monotonic() + self.seconds
        try:
            self.objects.create(_key(self.number), self.content())
        except FileExistsError:
            # The response to our own request may have been lost, and the request sent again.
            found = json.loads(self.objects.read(_key(self.number)) or b"{}")
            if found.get("token") != self.token:
                raise
        self._until = until

    def release(self) -> None:
        """Release the lease, so that the next owner can take the store at once."""
        if time.monotonic() < self._until:
            self._until = 0.0
            self.objects.replace(_key(self.number), self.content(released=True))

    def content(self, released: bool = False) -> bytes:
        """Return the owner of the store and the deadline as JSON."""
        owner = {**_this_process(), "token": self.token, "released": released}
        # Wall-clock time, because other machines compare it with their own clocks.
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
    # Lower numbers are superseded by the new one.
    for key in objects.list(FOLDER):
        if _number(key) < lease.number:
            objects.delete(key)
    return lease


def _held(content: Mapping[str, Any]) -> str | None:
    """Return why the store cannot be taken; None where it can."""
    left = content["deadline"] - time.time()
    if content["released"] or left <= 0 or _is_dead(content):
        return None
    return (
        f"another analysis owns the store (process {content['process']} on {content['host']}): "
        f"wait until it has ended; if it was killed, the store is free in {left:.0f} s"
    )


def _last(objects: Objects) -> tuple[int, dict[str, Any]] | None:
    """Return the highest number and its content; None where there is no lease."""
    for key in sorted(objects.list(FOLDER), key=_number, reverse=True):
        # A new owner deletes lower numbers, perhaps between our listing and our reading.
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
    """Return whether the owner ran on this machine and has ended.

    Of an owner on another machine this is not known before the deadline.
    """
    here = _machine()
    return (
        here is not None
        and owner["machine"] == here
        and _started(owner["process"]) != owner["started"]
    )


def _machine() -> str | None:
    """Return an identifier of this boot and of this namespace of process ids; None without Linux.

    Two containers on one machine may number their processes alike.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(process: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None where there is no process."""
    # Not psutil's `create_time`: it counts from 1970, and so changes when the clock is set.
    try:
        # The second field is the name in parentheses, which may itself hold spaces and parentheses.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended, although its parent has not yet read its exit code.
    return None if fields[0] == "Z" else int(fields[19])  # state; starttime, field 22 in proc(5)
