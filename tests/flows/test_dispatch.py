"""The pool, with workers in threads: which worker is called, and when a hung one is replaced."""

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from typing import Any

import pytest

from flows.dispatch import NotReadyError, Pool, WorkerHungError, WorkerLostError
from flows.workers import is_transient


class ThreadWorker:
    """A worker that applies a function to each cell, in its own thread."""

    def __init__(self, work: Any) -> None:
        self.work, self.replaced, self.stopped = work, 0, False
        self.calls: list[Any] = []
        self.pending: list[Future[Any]] = []
        self.threads = ThreadPoolExecutor(8)

    def is_usable(self) -> bool:
        return True

    def send(self, method: str, *arguments: Any) -> Future[Any]:
        self.calls.append(arguments[0])
        self.pending.append(self.threads.submit(self.work, arguments[0]))
        return self.pending[-1]

    def receive(self, pending: Future[Any], seconds: float | None) -> Any:
        try:
            answer = pending.result(seconds)
        except NotYetError:
            if pending in self.pending:
                raise NotReadyError from None
        else:
            if pending in self.pending:
                return answer
        raise WorkerLostError from ConnectionError("the worker went away")

    def replace(self) -> None:
        self.replaced += 1
        self.pending = []

    def stop(self) -> None:
        self.stopped = True


def test_work_goes_to_the_least_loaded_and_never_more_than_two_at_once() -> None:
    gate, workers = threading.Event(), []
    workers = [ThreadWorker(lambda cell: gate.wait(120) and cell) for _ in range(3)]
    with Pool(lambda: workers) as pool, ThreadPoolExecutor(10) as callers:
        answers = [callers.submit(pool.compute, cell) for cell in range(10)]
        while sum(len(worker.calls) for worker in workers) < 6:
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)
        assert [len(worker.calls) for worker in workers] == [2, 2, 2]
        gate.set()
        assert [answer.result(120) for answer in answers] == list(range(10))
    assert all(worker.stopped for worker in workers)
    assert Counter(cell for worker in workers for cell in worker.calls) == Counter(range(10))


def test_a_hung_worker_is_replaced_and_only_its_oldest_work_fails() -> None:
    hanging = threading.Event()
    stuck = ThreadWorker(lambda cell: cell if cell else hanging.wait(120))
    with Pool(lambda: [stuck], timeout=2.0) as pool, ThreadPoolExecutor(2) as callers:
        first = callers.submit(pool.compute, 0)
        while not stuck.calls:
            threading.Event().wait(0.01)
        stuck.work = lambda cell: hanging.wait(120) if stuck.replaced == 0 else cell
        second = callers.submit(pool.compute, 1)
        with pytest.raises(WorkerHungError, match=r"workers\.timeout") as hung:
            first.result(60)
        assert is_transient(hung.value)
        assert second.result(60) == 1
        hanging.set()
    assert (stuck.replaced, stuck.calls) == (1, [0, 1, 1])


def test_work_that_waits_behind_slow_work_does_not_hang() -> None:
    """Check four calls of 1 s, one after another on one worker, with a time limit of 3 s."""
    one_at_a_time = threading.Lock()

    def slow(cell: int) -> int:
        with one_at_a_time:
            threading.Event().wait(1.0)
            return cell

    worker = ThreadWorker(slow)
    with Pool(lambda: [worker], timeout=3.0) as pool, ThreadPoolExecutor(4) as callers:
        answers = [callers.submit(pool.compute, cell) for cell in range(4)]
        assert [answer.result(60) for answer in answers] == [0, 1, 2, 3]
    assert worker.replaced == 0


def test_a_lost_worker_raises_its_cause() -> None:
    worker = ThreadWorker(lambda cell: cell)
    worker.receive = lambda pending, seconds: (_ for _ in ()).throw(_lost())  # type: ignore
    with Pool(lambda: [worker]) as pool, pytest.raises(ConnectionError, match="gone"):
        pool.compute(0)


def _lost() -> WorkerLostError:
    error = WorkerLostError()
    error.__cause__ = ConnectionError("gone")
    return error


def test_a_closed_pool_computes_nothing() -> None:
    with Pool(lambda: [ThreadWorker(lambda cell: cell)]) as pool:
        assert pool.compute(3) == 3
    with pytest.raises(RuntimeError, match="closed"):
        pool.compute(4)
