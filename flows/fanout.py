"""One Prefect task per checkpoint, each of which waits for a worker, and the server's records."""

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

from flows.dispatch import IN_FLIGHT, Pool
from flows.server import is_server_reachable, without_retries
from flows.worker_logs import add_prefect_handlers
from flows.workers import is_transient
from pipeline.analysis.job import Cell, Plan
from pipeline.analysis.worker import Outcome

_ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_SERVER_SECONDS = 120  # enough for a server that is restarted after a minute


def worth_retrying(_task: object, _task_run: object, state: State) -> bool:
    """Return whether another attempt at a task may succeed, as Prefect asks it."""
    return is_transient(state.result(raise_on_failure=False))


@task(
    name="checkpoint",
    task_run_name="step {step}",
    retries=2,
    # A replaced worker is usable after seconds, S3 or the Hub after a short outage.
    retry_delay_seconds=[1, 10],
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,  # the store itself says what is computed already
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


def compute_cells(
    planned: Plan, pool: Pool, threads: ThreadPoolTaskRunner, put: Callable[[Plan], Any]
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    """Yield each cell with its outcome as soon as it is computed. put: see `Pool.set_plan`."""
    if not planned.cells:
        return
    add_prefect_handlers()
    pool.set_plan(planned, put)
    futures: dict[PrefectFuture[Outcome], Cell] = {
        threads.submit(checkpoint, {"step": cell.checkpoint.step, "cell": cell, "pool": pool}): cell
        for cell in planned.cells
    }
    for future in as_completed(list(futures)):
        yield futures[future], future.result(raise_on_failure=False)


def make_task_runner(workers: int) -> ThreadPoolTaskRunner:
    """Return a task runner with one thread per call that the pool allows in progress."""
    return ThreadPoolTaskRunner(IN_FLIGHT * workers)


@contextmanager
def drop_unsent_events() -> Iterator[None]:
    """Drop the events that are still queued after the block if the server is unreachable then.

    Otherwise Prefect tries to send each of them for seven seconds before the process can exit.
    """
    try:
        yield
    finally:
        if not is_server_reachable():
            with suppress(queue.Empty):
                while True:
                    # Prefect offers no public way to clear this queue.
                    EventsWorker.instance()._queue.get_nowait()


def wait_for_server() -> bool:
    """Wait until the server is reachable, but not for long; return whether it is."""
    deadline = time.monotonic() + _SERVER_SECONDS
    while not (reachable := is_server_reachable()) and time.monotonic() < deadline:
        time.sleep(1)
    if not reachable:
        get_run_logger().warning(
            "the Prefect server is unreachable: it does not record the end of this run"
        )
    return reachable


def wait_for_task_records(tasks: int) -> int:
    """Wait until the server has recorded the final state of every task; return for how many.

    An embedded server ends with this process and loses the records that it has not written yet.
    """
    query = {
        "flow_runs": {"id": {"any_": [str(flow_run.id)]}},
        "task_runs": {"state": {"type": {"any_": _ENDED}}},
    }
    deadline, recorded = time.monotonic() + _SERVER_SECONDS, 0
    with without_retries(), get_client(sync_client=True) as client:
        while recorded < tasks and time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                recorded = client.request("POST", "/task_runs/count", json=query).json()
            time.sleep(0.1)
    if recorded < tasks:
        get_run_logger().warning("the server has recorded %d of %d tasks", recorded, tasks)
    return recorded
