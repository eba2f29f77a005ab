"""The process that `flows.cleanup` starts: it waits for the end of a run and kills what is left.

    python -I -S cleaner.py MARK FOLDER <PIPE

The run has ended when the pipe is closed, which the kernel does for a process that was killed too.
This file imports nothing of ours, and nothing that is not part of Python.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_QUIET_SECONDS = 1.0  # without a process of the run: one that was killed may have started another


def _clean_up(mark: bytes, folder: Path) -> None:
    """Kill all processes of a run until none is left, then delete its folder."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        for process in _processes(mark):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
                quiet_since = time.monotonic()
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(mark: bytes) -> list[int]:
    """Return the processes that have a mark in their environment and have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        # It may end meanwhile, or belong to another user. An ended one's environment is empty.
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _main(mark: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the run ends: nothing is ever written
    _clean_up(mark.encode(), Path(folder))


if __name__ == "__main__":
    _main(*sys.argv[1:])
