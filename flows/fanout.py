"""One task for each checkpoint, each waiting for a worker; and a record of every one."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dispatch import Pool
from flows.server import asked_once, server_answers
from flows.worker_logs import tell_prefect
from flows.workers import may_pass
from pipeline.analysis.plan import Cell, Plan
from pipeline.analysis.worker import Outcome

_ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_AWAY_SECONDS = 120  # a server that is gone for a minute and starts again is waited for


def _worth_retrying(_task: object, _task_run: object, state: State) -> bool:
    return may_pass(state.result(raise_on_failure=False))


@task(
    name="checkpoint",
    task_run_name="step {step}",
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,
)
def checkpoint(step: int, cell: Cell, pool: Pool) -> Outcome:
    """Compute and commit what is missing at one checkpoint."""
    log = get_run_logger()
    try:
        outcome = pool.compute(cell)
    except Exception as error:
        for note in getattr(error, "__notes__", ()):
            log.warning("%s", note)
        raise
    log.info(
        "computed %s: read in %.2f s, computed in %.2f s",
        ", ".join(outcome.computed) or "nothing (all is stored)",
        outcome.reading,
        outcome.computing,
    )
    return outcome


def computed(
    planned: Plan, pool: Pool, threads: ThreadPoolTaskRunner, share: Callable[[Plan], Any]
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    """Each cell with its outcome, as they come. share: see `Pool.assign`."""
    if not planned.cells:
        return
    tell_prefect()
    pool.assign(planned, share)
    futures: dict[PrefectFuture[Outcome], Cell] = {
        threads.submit(checkpoint, {"step": cell.checkpoint.step, "cell": cell, "pool": pool}): cell
        for cell in planned.cells
    }
    for future in as_completed(list(futures)):
        yield futures[future], future.result(raise_on_failure=False)


def threads_for(workers: int) -> ThreadPoolTaskRunner:
    """As many threads as checkpoints can be in hand."""
    return ThreadPoolTaskRunner(Pool.IN_FLIGHT * workers)


@contextmanager
def dropping_unsent_events() -> Iterator[None]:
    """Where the server is away at the end of the block, it is told no more of what was in it.

    For each of these events the process would try for seven seconds before it ends.
    """
    try:
        yield
    finally:
        if not server_answers():
            with suppress(queue.Empty):
                while True:
                    EventsWorker.instance()._queue.get_nowait()


def await_server() -> bool:
    """Wait until the server answers, for a while; returns whether it does."""
    deadline = time.monotonic() + _AWAY_SECONDS
    while not (there := server_answers()) and time.monotonic() < deadline:
        time.sleep(1)
    if not there:
        get_run_logger().warning("the Prefect server is not told what else became of this run")
    return there


def await_records(tasks: int) -> int:
    """Wait until the server has recorded how every task ended; returns how many it has.

    An embedded server ends with this process, and drops the records that it has not written.
    """
    question = {
        "flow_runs": {"id": {"any_": [str(flow_run.id)]}},
        "task_runs": {"state": {"type": {"any_": _ENDED}}},
    }
    deadline, recorded = time.monotonic() + _AWAY_SECONDS, 0
    with asked_once(), get_client(sync_client=True) as client:
        while recorded < tasks and time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                recorded = client.request("POST", "/task_runs/count", json=question).json()
            time.sleep(0.1)
    if recorded < tasks:
        get_run_logger().warning("the server has recorded %d of %d tasks", recorded, tasks)
    return recorded
