"""Ownership of a store: advice, so that two analyses do not do the same work at once.

What is stored is right without it (see `versions`): a lease that is lost, deleted or taken over
costs time, never data. A lease is a numbered object, `_lease/<number>.json`, which its owner
rewrites again and again. Who finds one takes the store over if it was given back, if its process
is known to be dead, or if it was not rewritten for a while: on the clock of who waits, so that
clocks that are set wrongly do no harm.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.outside import parsed_json
from pipeline.store.objects import Objects
from pipeline.store.store import Store

FOLDER = "_lease"
SECONDS = 60.0  # a lease that was not rewritten for so long is nobody's
_LONGEST = 3600.0  # a lease that asks for more was not written by us
_BEATS = 6  # how often a lease is rewritten in that time
_NAME = re.compile(rf"{FOLDER}/(\d{{8}})\.json")


@contextmanager
def owned(
    store: Store, seconds: float = SECONDS, waiting: Callable[[str], None] = lambda said: None
) -> Iterator["Lease"]:
    """Own an existing store while the block runs. InputError while another process owns it.

    waiting(said) is called before it has to be watched whether an owner elsewhere is alive, which
    takes up to `seconds`. The lease is rewritten from a thread; call `check` before much is done
    that another owner may be doing already.
    """
    store.version()
    lease = _take(store.objects, seconds, waiting)
    ended = threading.Event()
    # A daemon, so that it does not keep a process alive whose main thread has died.
    renewing = threading.Thread(target=lease.keep, args=(ended,), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        with suppress(OSError, InputError):  # advice: who comes next finds out by waiting
            lease.release()


def require_free(store: Store) -> None:
    """Raise InputError where a process on this machine owns the store now, without waiting."""
    found = _last(store.objects)
    if found is not None and found[1] and not found[1]["released"] and _is_running_here(found[1]):
        raise _owned_by(store.objects, found[1])


def unlock(store: Store) -> str | None:
    """Remove the leases of a store; return who seemed to own it, None where nobody did."""
    store.version()
    found = _last(store.objects)
    for key in store.objects.list(FOLDER):
        store.objects.delete(key)
    if found is None or not found[1] or found[1]["released"]:
        return None
    return _name(found[1])


@dataclass
class Lease:
    """A lease that this process holds, or held."""

    objects: Objects
    number: int
    seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check(self) -> None:
        """Raise InputError if another process has taken the store over."""
        found = _last(self.objects)
        if found is not None and (found[0] > self.number or not self._is_own(found[1])):
            raise InputError(
                f"{self.objects.uri}: another analysis ({_name(found[1])}) has taken the store "
                "over, because this one seemed to be dead: what is stored is safe; run this one "
                "again when the other has ended"
            )

    def keep(self, ended: threading.Event) -> None:
        """Rewrite the lease until told to end, or until it is lost."""
        while not ended.wait(self.seconds / _BEATS):
            with suppress(OSError, InputError):  # the storage may be away for a while
                if not self._still_ours():
                    return
                self._rewrite()

    def create(self) -> None:
        """Take the number; FileExistsError where another was quicker."""
        try:
            self.objects.create(_key(self.number), self._content())
        except FileExistsError:
            # The answer to our own request may have been lost, and the request sent again.
            if not self._is_own(read_lease(self.objects, _key(self.number))):
                raise

    def release(self) -> None:
        """Let the next owner take the store at once."""
        if self._still_ours():
            self._rewrite(released=True)

    def _still_ours(self) -> bool:
        found = _last(self.objects)
        return found is not None and found[0] == self.number and self._is_own(found[1])

    def _is_own(self, content: Mapping[str, Any]) -> bool:
        return not content or content["token"] == self.token

    def _rewrite(self, released: bool = False) -> None:
        self.objects.put({_key(self.number): self._content(released)})

    def _content(self, released: bool = False) -> bytes:
        """Return who owns the store, as JSON. It differs each time: the owner is alive."""
        owner = {**_this_process(), "token": self.token, "released": released}
        return json.dumps({**owner, "seconds": self.seconds, "beat": uuid.uuid4().hex}).encode()


def _take(objects: Objects, seconds: float, waiting: Callable[[str], None]) -> Lease:
    found = _last(objects)
    if found is not None and found[1]:
        _wait_for(objects, found[1], waiting)
    lease = Lease(objects, found[0] + 1 if found else 1, seconds)
    try:
        lease.create()
    except FileExistsError:
        raise InputError(
            f"{objects.uri}: another analysis took the store a moment ago: wait until it has ended"
        ) from None
    # Lower numbers are superseded by the new one.
    for key in objects.list(FOLDER):
        if (_number(key) or 0) < lease.number:
            objects.delete(key)
    return lease


def _wait_for(objects: Objects, owner: Mapping[str, Any], waiting: Callable[[str], None]) -> None:
    """Return once the store is free. Raises InputError as soon as its owner is seen to be alive."""
    if owner["released"] or _is_dead(owner):
        return
    if not _is_running_here(owner):
        seconds = owner["seconds"]
        waiting(f"{_name(owner)} may own the store: watching it for up to {seconds:.0f} s")
        until = time.monotonic() + seconds
        while (found := _last(objects)) is not None and found[1] == owner:
            if time.monotonic() > until or _is_dead(owner):
                return
            time.sleep(min(1.0, seconds / 10))
        if found is None or not found[1] or found[1]["released"]:
            return
        owner = found[1]
    raise _owned_by(objects, owner)


def _owned_by(objects: Objects, owner: Mapping[str, Any]) -> InputError:
    return InputError(
        f"{objects.uri}: another analysis owns the store ({_name(owner)}): wait until it has "
        "ended, or run `ontogeny store unlock` if that is wrong"
    )


def _last(objects: Objects) -> tuple[int, dict[str, Any]] | None:
    """Return the highest number and its content, {} where that cannot be read."""
    numbers = [number for key in objects.list(FOLDER) if (number := _number(key)) is not None]
    if not numbers:
        return None
    return max(numbers), read_lease(objects, _key(max(numbers)))


def read_lease(objects: Objects, key: str) -> dict[str, Any]:
    """Return the content of a lease; {}, which owns nothing, where it is absent or damaged."""
    try:
        content = parsed_json(objects.read(key) or b"{}")
        expected = {"host", "process", "machine", "started", "token", "released", "seconds", "beat"}
        sound = expected <= content.keys() and 0 < content["seconds"] <= _LONGEST
        return content if sound else {}
    except (ValueError, AttributeError, TypeError):
        return {}


def _key(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _number(key: str) -> int | None:
    match = _NAME.fullmatch(key)
    return int(match[1]) if match else None


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner['process']} on {owner['host']}" if owner else "an unknown process"


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _is_dead(owner: Mapping[str, Any]) -> bool:
    """Tell whether the owner ran here and is gone. Elsewhere nobody can tell without waiting."""
    return _is_here(owner) and _started(owner["process"]) != owner["started"]


def _is_running_here(owner: Mapping[str, Any]) -> bool:
    """Tell whether the owner is a process here that is not stopped."""
    return _is_here(owner) and not _is_dead(owner) and _state(owner["process"]) not in ("T", "t")


def _is_here(owner: Mapping[str, Any]) -> bool:
    here = _machine()
    return here is not None and owner["machine"] == here


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
    """Return when a process began, in ticks since boot; None where there is no such process."""
    # Not psutil's time of creation: it counts from 1970, and so changes when the clock is set.
    fields = _stat(process)
    # A zombie has ended, though its parent has not asked for its exit code yet.
    return None if not fields or fields[0] == "Z" else int(fields[19])


def _state(process: int) -> str:
    """Return the state of a process, "T" for one that is stopped; "" where there is none."""
    fields = _stat(process)
    return fields[0] if fields else ""


def _stat(process: int) -> list[str]:
    """Return what Linux says of a process, after its name; [] where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
