"""One task for each checkpoint, each waiting for a worker; and a record of every one."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.dispatch import Pool
from flows.overhearing import tell_prefect
from flows.workers import may_pass
from pipeline.plan import Cell, Plan
from pipeline.worker import Outcome

_ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_RECORDING_SECONDS = 180  # a server that was gone for a minute is sent again what it missed


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


def await_records(tasks: int) -> int:
    """Wait until the server has recorded how every task ended; returns how many it has.

    An embedded server ends with this process, and drops the records that it has not written. One
    that stands may be away for a while.
    """
    question = {
        "flow_runs": {"id": {"any_": [str(flow_run.id)]}},
        "task_runs": {"state": {"type": {"any_": _ENDED}}},
    }
    deadline, recorded = time.monotonic() + _RECORDING_SECONDS, 0
    with get_client(sync_client=True) as client:
        while recorded < tasks and time.monotonic() < deadline:
            try:
                recorded = client.request("POST", "/task_runs/count", json=question).json()
            except httpx.HTTPError:
                time.sleep(1)
            time.sleep(0.1)
    if recorded < tasks:
        get_run_logger().warning("the server has recorded %d of %d tasks", recorded, tasks)
    return recorded
