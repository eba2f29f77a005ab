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
_OUTPUTS = (1, 2)  # standard output and error


def _clean_up(mark: bytes, folder: Path) -> None:
    """Kill all processes of a run until none is left, then delete its folder."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        for process in _processes(mark, folder):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
                quiet_since = time.monotonic()
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(mark: bytes, folder: Path) -> list[int]:
    """Return the processes of a run that are alive."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [one for one in numbers if one != os.getpid() and _belongs(one, mark, folder)]


def _belongs(process: int, mark: bytes, folder: Path) -> bool:
    """Return whether a process is alive and was started by the run with this mark and folder."""
    at = Path("/proc", str(process))
    with suppress(OSError):  # it has ended, or belongs to another user
        # Of a process that has ended and was not waited for, the environment is empty.
        if mark in (at / "environ").read_bytes():
            return True
    for output in _OUTPUTS:
        with suppress(OSError):
            if (at / "fd" / str(output)).readlink().is_relative_to(folder):
                return True
    return False


def _main(mark: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the run ends: nothing is ever written
    _clean_up(mark.encode(), Path(folder))


if __name__ == "__main__":
    _main(*sys.argv[1:])
