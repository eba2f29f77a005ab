"""The report of a run in progress: written again from time to time, by a process of its own."""

import os
import subprocess
import sys
import tempfile
import threading
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
        self._process: subprocess.Popen[bytes] | None = None
        self._next, self._started = time.monotonic() + FIRST, 0.0
        self._ended: float | None = None  # when the process did
        self._said: set[str] = set()

    def refresh(self) -> bool:
        """Start to write the report if it is time to; return whether one was finished meanwhile.

        Whatever goes wrong is a warning, told once: an analysis does not fail with its report.
        """
        if self._process is None:
            if time.monotonic() >= self._next:
                self._try_to_start()
            return False
        if self._ended is None:
            return False
        self._next = self._ended + max(FIRST, _PAUSE * (self._ended - self._started))
        code, self._process = self._process.returncode, None
        if code:
            self._warn(self._last_error())
        return code == 0

    def stop(self) -> None:
        """End a process that still writes."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _try_to_start(self) -> None:
        self._started, self._ended = time.monotonic(), None
        try:
            self._process = self._start()
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        except OSError as error:
            self._next = self._started + FIRST
            self._warn(str(error))
        if self._process is not None:
            # Checkpoints may take hours: when the process ends is not seen between them.
            threading.Thread(target=self._wait_for, args=(self._process,), daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a process: a thread would slow down the one that hands out checkpoints."""
        folder = str(report_folder(self.store))
        command = ["report", self.store, "--in-progress", "--output", folder]
        self._errors.seek(0)
        self._errors.truncate()
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ontogeny", *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended = time.monotonic()

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def _warn(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            get_run_logger().warning("the report is not refreshed for now: %s", why)


@contextmanager
def refreshing(store: str) -> Iterator[Refresher]:
    """Yield what refreshes the report of a store during the block."""
    with tempfile.TemporaryFile() as errors:
        refresher = Refresher(store, errors)
        try:
            yield refresher
        finally:
            refresher.stop()
