"""The report of a run in progress: written again from time to time, by a process of its own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from prefect import get_run_logger

from flows.reporting import report_folder

FIRST = 60.0  # seconds after which a run is long enough for a report before its end
_PAUSE = 9  # times the seconds that a report took: a tenth of a processor at most
_NICE = 10


class Refresher:
    """Writes the report of a store again and again, at most once at a time."""

    def __init__(self, store: str, errors: IO[bytes]) -> None:
        self.store, self._errors = store, errors
        self._next, self._started = time.monotonic() + FIRST, 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def refresh(self) -> bool:
        """Start to write the report if it is time to; return whether one was finished meanwhile."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._next:
                self._start(now)
            return False
        if (code := self._process.poll()) is None:
            return False
        self._process, self._next = None, now + max(FIRST, _PAUSE * (now - self._started))
        if code:
            get_run_logger().warning("the report was not refreshed: %s", self._last_error())
        return code == 0

    def stop(self) -> None:
        """End a process that still writes."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _start(self, now: float) -> None:
        folder = str(report_folder(self.store))
        # By a process: a thread would slow down the one that hands out checkpoints.
        command = ["report", self.store, "--in-progress", "--out", folder]
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ontogeny", *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        self._started = now

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


@contextmanager
def refreshing(store: str) -> Iterator[Refresher]:
    """Yield what refreshes the report of a store during the block."""
    with tempfile.TemporaryFile() as errors:
        refresher = Refresher(store, errors)
        try:
            yield refresher
        finally:
            refresher.stop()
