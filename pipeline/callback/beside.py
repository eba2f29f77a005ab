"""The analysis beside a training: start its processes, ask for looks, receive what they say.

    training  ->  supervisor (limits CPU time)  ->  worker (analyses)

The supervisor needs no libraries and little memory. It ends, and kills the worker, when the
training has ended in any way.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.callback.supervisor import FINISH, LOOK, command
from pipeline.config import Analysis

Message = dict[str, Any]
_SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Limits:
    """Limits on the processes beside the training.

    share: CPU seconds that they may take per second of training. nice: added to the worker's
    niceness. See `OntogenyCallback`.
    """

    share: float = 0.1
    nice: int = 19


class Beside:
    """The processes that analyse one run. log: a file to which their warnings are appended."""

    def __init__(self, analysis: Analysis, limits: Limits, log: Path) -> None:
        settings = {
            "analysis": analysis.model_dump(mode="json", exclude_unset=True),
            "share": limits.share,
            "nice": limits.nice,
            "threads": analysis.workers.threads,
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command("pipeline.callback.supervisor", json.dumps(settings)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(analysis),
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._answers, False)
        self._unfinished = b""

    @property
    def process(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def look(self) -> None:
        """Ask for an analysis of what is complete, and return at once.

        Raises ChildProcessError if the processes have ended.
        """
        self._request(LOOK)

    def messages(self) -> Iterator[Message]:
        """Yield what the processes have said since the last time, without waiting."""
        while content := self._read():
            *lines, self._unfinished = (self._unfinished + content).split(b"\n")
            yield from map(json.loads, lines)

    def finish(self, seconds: float | None) -> Iterator[Message]:
        """Lift the limit on CPU time, wait for the last analysis, and yield all that is said.

        seconds: how long to wait; None for as long as it takes. Raises TimeoutError after that.
        """
        until = None if seconds is None else time.monotonic() + seconds
        self._request(FINISH)
        while self._process.poll() is None:
            yield from self.messages()
            if until is not None and time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.05)
        yield from self.messages()

    def end(self) -> None:
        """End all processes; those that do not end by themselves soon are killed."""
        with suppress(OSError):
            self._requests.close()
        # A process forked by the training may hold the other end of that pipe open. Asked to
        # terminate, the supervisor kills the worker first; killed itself, it does so on Linux only.
        for end in (self._process.terminate, self._process.kill):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_END)
                break
            end()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _request(self, word: str) -> None:
        try:
            self._requests.write(f"{word}\n".encode())
            self._requests.flush()
        except OSError as error:
            raise ChildProcessError("the process beside the training has ended") from error

    def _read(self) -> bytes | None:
        try:
            return os.read(self._answers, 2**16)
        except BlockingIOError:
            return None


def _environment(analysis: Analysis) -> dict[str, str]:
    """Return the environment of the processes: few threads, and no GPU if none is used."""
    threads = str(analysis.workers.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, threads)}
    # PyTorch would else take hundreds of MB of the GPU on which the model is trained.
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if analysis.workers.device == "cpu" else {})
