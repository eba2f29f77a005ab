"""Who of the workers gets the next checkpoint, and what becomes of one that answers no more.

Nothing here knows what a worker is: `flows.workers` seats Ray actors, the benchmark of the
scheduling (`tests/benchmarks/fanout.py`) simulated ones.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.analysis.plan import Cell, Plan
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints import Checkpoint
from pipeline.measures.base import Reference

_LOOK_EVERY = 0.5  # seconds between two looks at whether a worker hangs


class StillWorkingError(Exception):
    """There is no answer yet."""


class LostError(Exception):
    """The worker went away with the work; its cause says how."""


class HungError(TimeoutError):
    """A worker finished nothing within the time that a checkpoint may take."""


class Worker(Protocol):
    """One worker, wherever it is. Any thread may call any of its methods."""

    def is_usable(self) -> bool:
        """Whether it can be given work now. Raises what made it impossible for good."""
        ...

    def send(self, method: str, *arguments: Any) -> Any:
        """Begin some work; returns what `receive` asks for."""
        ...

    def receive(self, pending: Any, seconds: float | None) -> Any:
        """The answer. Raises what the work raised, LostError, or, in time, StillWorkingError."""
        ...

    def replace(self) -> None:
        """End it and all that it has in hand, and start another in its place."""
        ...

    def dismiss(self) -> None:
        """End it for good."""
        ...


@dataclass(eq=False)
class _Work:
    """One call under way. redo: its worker was replaced because of another call's checkpoint."""

    redo: bool = False


@dataclass(eq=False)
class _Seat:
    """A worker, what it has in hand (the oldest first), and when it last began or ended a work."""

    worker: Worker
    in_hand: list[_Work] = field(default_factory=list)
    heard: float = 0.0


class Pool:
    """Workers for one job, from the first call on until the end of the `with` block.

    Any thread may call; a call waits for the worker with the fewest checkpoints in hand.

    hire: makes the workers. timeout: seconds that a worker may take to finish the oldest work that
    it has; then it is replaced, the oldest work fails (HungError), and what came after it is begun
    again.
    """

    # What one worker has in hand: one checkpoint computes while the next is read; see `Worker`.
    IN_FLIGHT = 2

    def __init__(self, hire: Callable[[], Sequence[Worker]], timeout: float | None = None) -> None:
        self._hire, self._timeout = hire, timeout
        self._seats: list[_Seat] = []
        self._plan: Any = None
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            for seat in self._seats:
                seat.worker.dismiss()

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """See `pipeline.analysis.worker.Worker.references`."""
        return self._call("references", checkpoint)

    def assign(self, plan: Plan, share: Callable[[Plan], Any] = lambda plan: plan) -> None:
        """Give the plan to all workers at once; `compute` is about its cells.

        share: makes of it what is sent with each cell, once the workers are there.
        """
        self._start()
        self._plan = share(plan)

    def compute(self, cell: Cell) -> Outcome:
        """See `pipeline.analysis.worker.Worker.compute`. Raises what it raised, or its loss."""
        return self._call("compute", cell, self._plan)

    def _call(self, method: str, *arguments: Any) -> Any:
        self._start()
        while True:
            with self._work() as (seat, work):
                try:
                    return self._answer(seat, work, seat.worker.send(method, *arguments))
                except LostError as lost:
                    if not work.redo:
                        raise lost.__cause__ or lost from None

    def _answer(self, seat: _Seat, work: _Work, pending: Any) -> Any:
        while True:
            try:
                return seat.worker.receive(pending, self._timeout and _LOOK_EVERY)
            except StillWorkingError:
                self._end_if_hung(seat, work)

    def _end_if_hung(self, seat: _Seat, work: _Work) -> None:
        with self._changed:
            waited = time.monotonic() - seat.heard
            if self._timeout is None or waited < self._timeout or seat.in_hand[0] is not work:
                return
            for other in seat.in_hand[1:]:
                other.redo = True
            seat.worker.replace()
        raise HungError(
            f"nothing was finished within {self._timeout:g} s (workers.timeout): the worker was "
            "replaced; allow more time if the checkpoint is sound"
        )

    def _start(self) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed: it computes nothing more")
            if not self._seats:
                self._seats = [_Seat(worker) for worker in self._hire()]

    @contextmanager
    def _work(self) -> Iterator[tuple[_Seat, _Work]]:
        """A seat that has room, taken for one work."""
        work = _Work()
        with self._changed:
            while (seat := self._least_loaded()) is None:
                # Workers that start or come back tell nobody: look again now and then.
                self._changed.wait(timeout=0.1)
            if not seat.in_hand:
                seat.heard = time.monotonic()
            seat.in_hand.append(work)
        try:
            yield seat, work
        finally:
            with self._changed:
                seat.in_hand.remove(work)
                seat.heard = time.monotonic()
                self._changed.notify()

    def _least_loaded(self) -> _Seat | None:
        if self._closed:
            raise RuntimeError("the pool is closed: it computes nothing more")
        free = [
            seat
            for seat in self._seats
            if len(seat.in_hand) < self.IN_FLIGHT and seat.worker.is_usable()
        ]
        return min(free, key=lambda seat: len(seat.in_hand), default=None)
