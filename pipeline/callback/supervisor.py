"""The process that starts the analysis beside a training, limits its CPU time, and ends it.

The limit: at every moment, the CPU time of supervisor and worker together is at most `share` times
the time since the start, plus `_BURST` seconds. Time in which the worker had nothing to do is not
saved up. The worker is stopped (SIGSTOP) while it would exceed the limit, and continued later. It
imports only the standard library, and takes no memory to speak of.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOOK, FINISH = "look", "finish"  # requests, one in a line

_TICK = 0.05  # seconds between two looks at the worker's CPU time
_IDLE_TICK = 1.0  # while the worker has nothing to do
_BURST = 0.5  # CPU seconds that may be taken at once
_ROOT = Path(__file__).resolve().parents[2]
# Whatever else has the name `pipeline` in that process: see ontogeny.py.
_START = (
    "import importlib, runpy, sys\n"
    "runpy.run_path(sys.argv[1])['import_own_packages'](('pipeline',))\n"
    "importlib.import_module(sys.argv[2]).main(sys.argv[3])\n"
)


def command(module: str, settings: str) -> list[str]:
    """Return the command that runs main(settings) of a module of this package."""
    # -P: the working folder is not searched for modules.
    return [sys.executable, "-P", "-c", _START, str(_ROOT / "ontogeny.py"), module, settings]


def main(settings: str) -> None:
    """Supervise an analysis until the training ends. settings: JSON, see `Beside`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Supervisor(settings).run()


class Budget:
    """CPU seconds that may be used: `share` for each second that passes, at most `_BURST` saved."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = _BURST
        self._used = 0.0

    def update(self, seconds: float, used: float) -> bool:
        """Account for seconds that passed, and CPU seconds used in all; return whether to go on."""
        self._saved = min(self._saved + self._share * seconds, _BURST) - (used - self._used)
        self._used = used
        return self._saved > 0


class Supervisor:
    """The loop of this process."""

    def __init__(self, settings: str) -> None:
        self._settings = settings
        parsed: dict[str, Any] = json.loads(settings)
        self._budget = Budget(parsed["share"])
        self._threads = parsed["threads"]
        self._parent = os.getppid()
        self._worker: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = b""
        self._wanted = self._busy = self._stopped = False
        self._finishing = self._closed = False
        self._seen = time.monotonic()
        # CPU seconds of the worker, and of those that have ended.
        self._running = self._ended = 0.0

    def run(self) -> None:
        """Work until the training has ended or has received the last answer."""
        try:
            while not self._closed and os.getppid() == self._parent:
                self._receive()
                self._dispatch()
                self._limit()
        finally:
            self._kill()

    def _receive(self) -> None:
        """Wait for a request or an answer, for a tick at most."""
        worker = [self._worker.stdout] if self._worker and self._worker.stdout else []
        streams = [sys.stdin, *worker]
        ready, _, _ = select.select(streams, [], [], _TICK if self._busy else _IDLE_TICK)
        if sys.stdin in ready:
            self._read_requests()
        if worker and worker[0] in ready:
            self._read_answers(worker[0].fileno())

    def _read_requests(self) -> None:
        content = os.read(sys.stdin.fileno(), 2**16)
        self._closed = not content
        *lines, self._requests = (self._requests + content).split(b"\n")
        for line in lines:
            self._wanted = True
            self._finishing |= line.decode() == FINISH

    def _read_answers(self, stream: int) -> None:
        """Pass on each whole line that the worker has written."""
        content = os.read(stream, 2**16)
        if not content:
            self._bury()
            return
        *lines, self._answers = (self._answers + content).split(b"\n")
        for line in lines:
            self._busy = False
            self._say(line)
            self._closed |= json.loads(line)["kind"] == "findings"

    def _dispatch(self) -> None:
        """Give the worker its next task, if there is one and it has none."""
        if self._busy or not self._wanted:
            return
        if self._worker is None:
            self._worker = subprocess.Popen(
                command("pipeline.callback.worker", self._settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._worker.stdin is not None
        self._wanted, self._busy = False, True
        with suppress(OSError):  # it has died: the end of its answers says so
            self._worker.stdin.write(f"{FINISH if self._finishing else LOOK}\n".encode())
            self._worker.stdin.flush()

    def _limit(self) -> None:
        """Stop the worker if it exceeds its share, and continue it when it no longer does."""
        now = time.monotonic()
        seconds, self._seen = now - self._seen, now
        if self._worker is None:
            return
        running = _cpu_seconds(self._worker.pid)
        if running is None:  # not on Linux: as much as it can have used
            running = self._running + (0 if self._stopped else seconds * self._threads)
        self._running = running
        used = self._ended + running + time.process_time()
        may_run = self._budget.update(seconds, used) or self._finishing
        if may_run == self._stopped:
            self._worker.send_signal(signal.SIGCONT if may_run else signal.SIGSTOP)
            self._stopped = not may_run

    def _bury(self) -> None:
        """Say that the worker has ended by itself. The next request starts another one."""
        assert self._worker is not None
        code = self._worker.wait()
        self._ended += self._running
        self._worker, self._busy, self._stopped, self._running = None, False, False, 0.0
        self._answers = b""  # what it had not said to the end
        # A last request that it had not been given yet starts another one, too.
        self._closed |= self._finishing and not self._wanted
        reason = f"the process of the analysis has ended with code {code}: see the log"
        self._say(json.dumps({"kind": "failed", "reason": reason}).encode())

    def _say(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()  # also a stopped one ends; a store is sound at every moment
            self._worker.wait()


def _cpu_seconds(process: int) -> float | None:
    """Return the CPU time of a process so far; None where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
