"""Pool: which worker gets the next checkpoint, and how hung and lost workers are replaced.

Nothing here depends on how workers run: `flows.workers` supplies Ray actors, the benchmark of the
scheduling (`tests/benchmarks/fanout.py`) simulated workers.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.analysis.job import Cell, Plan
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints import Checkpoint
from pipeline.measures.base import Reference

# Calls in progress per worker: one checkpoint is computed while the next is read, see
# `pipeline.analysis.worker.Worker`.
IN_FLIGHT = 2
_HUNG_CHECK_SECONDS = 0.5  # between two checks for a hung worker


class NotReadyError(Exception):
    """There is no answer yet."""


class WorkerLostError(Exception):
    """The worker ended before it answered; `__cause__` is the reason."""


class WorkerHungError(TimeoutError):
    """The worker finished nothing within the time limit of a checkpoint."""


class PoolWorker(Protocol):
    """A worker as the pool uses it. Its methods may be called from any thread."""

    def is_usable(self) -> bool:
        """Return whether it accepts work now. Raises what makes it permanently unusable."""
        ...

    def send(self, method: str, *arguments: Any) -> Any:
        """Start a call; return the handle that `receive` takes."""
        ...

    def receive(self, pending: Any, seconds: float | None) -> Any:
        """Return the answer to a call, or raise the call's exception.

        Raises WorkerLostError if the worker ended, and NotReadyError after so many seconds.
        """
        ...

    def replace(self) -> None:
        """End the worker with all its calls, and start another in its place."""
        ...

    def stop(self) -> None:
        """End the worker without replacement."""
        ...


@dataclass(eq=False)
class _Call:
    """A call in progress. repeat: its worker was replaced because an older call hung."""

    repeat: bool = False


@dataclass(eq=False)
class _WorkerState:
    """A worker, its calls in progress (oldest first), and when a call last started or ended."""

    worker: PoolWorker
    calls: list[_Call] = field(default_factory=list)
    last_activity: float = 0.0


class Pool:
    """Workers for one job, started by the first call and stopped at the end of the `with` block.

    Calls may come from any thread; each waits for the worker with the fewest calls in progress.

    start: starts the workers. timeout: seconds that a worker may take for the oldest of its calls.
    After that the worker is replaced, the call fails (WorkerHungError), and its other calls are
    repeated. in_flight: calls in progress per worker, at most.
    """

    def __init__(
        self,
        start: Callable[[], Sequence[PoolWorker]],
        timeout: float | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._start_workers, self._timeout, self._in_flight = start, timeout, in_flight
        self._workers: list[_WorkerState] = []
        self._plan: Any = None
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            for state in self._workers:
                state.worker.stop()

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Compute the reference numbers of a checkpoint on a worker."""
        return self.call("references", checkpoint)

    def set_plan(self, plan: Plan, put: Callable[[Plan], Any] = lambda plan: plan) -> None:
        """Set the plan that is sent with every cell.

        put: called once when the workers run; returns what is sent in place of the plan, such as a
        Ray object reference.
        """
        self._ensure_started()
        self._plan = put(plan)

    def compute(self, cell: Cell) -> Outcome:
        """Compute a cell on a worker; raises the worker's exception, or why it was lost."""
        return self.call("compute", cell, self._plan)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of a worker; raises its exception, or why the worker was lost."""
        self._ensure_started()
        while True:
            with self._reserve() as (state, call):
                try:
                    return self._receive(state, call, state.worker.send(method, *arguments))
                except WorkerLostError as lost:
                    # Only a call that was lost through another's timeout is repeated here; the
                    # retries of other losses are Prefect's, so that they appear in its records.
                    if not call.repeat:
                        raise lost.__cause__ or lost from None

    def _receive(self, state: _WorkerState, call: _Call, pending: Any) -> Any:
        while True:
            try:
                return state.worker.receive(pending, self._timeout and _HUNG_CHECK_SECONDS)
            except NotReadyError:
                self._replace_if_hung(state, call)

    def _replace_if_hung(self, state: _WorkerState, call: _Call) -> None:
        with self._changed:
            waited = time.monotonic() - state.last_activity
            # A younger call waits for the oldest one, so only the oldest can be the one that hangs.
            if self._timeout is None or waited < self._timeout or state.calls[0] is not call:
                return
            for other in state.calls[1:]:
                other.repeat = True
            state.worker.replace()
        raise WorkerHungError(
            f"nothing was finished within {self._timeout:g} s (workers.timeout): the worker was "
            "replaced; allow more time if the checkpoint is sound"
        )

    def _ensure_started(self) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if not self._workers:
                self._workers = [_WorkerState(worker) for worker in self._start_workers()]

    @contextmanager
    def _reserve(self) -> Iterator[tuple[_WorkerState, _Call]]:
        """Wait for a worker with capacity, and count one call as in progress during the block."""
        call = _Call()
        with self._changed:
            while (state := self._least_loaded()) is None:
                # A worker that becomes usable does not notify this condition, so poll as well.
                self._changed.wait(timeout=0.1)
            if not state.calls:
                state.last_activity = time.monotonic()
            state.calls.append(call)
        try:
            yield state, call
        finally:
            with self._changed:
                state.calls.remove(call)
                state.last_activity = time.monotonic()
                self._changed.notify()

    def _least_loaded(self) -> _WorkerState | None:
        if self._closed:
            raise RuntimeError("the pool is closed")
        free = [
            state
            for state in self._workers
            if len(state.calls) < self._in_flight and state.worker.is_usable()
        ]
        return min(free, key=lambda state: len(state.calls), default=None)
