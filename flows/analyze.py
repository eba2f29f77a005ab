"""The flow `analyze`: `pipeline.analysis.run` with one Prefect task per checkpoint.

The executor is a pool of Ray actors, the observer reports to Prefect.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import ray
from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, cleanup
from flows.allowed_code import code_of_trusted_files, refusal
from flows.dispatch import Pool
from flows.fanout import (
    compute_cells,
    drop_unsent_events,
    make_task_runner,
    wait_for_server,
    wait_for_task_records,
)
from flows.observer import PrefectObserver
from flows.places import resolve_places
from flows.preflight import run_faults
from flows.refreshing import refreshing
from flows.server import require_server, run_link
from flows.workers import start_workers
from pipeline.analysis.job import Cell, Plan, Prepared
from pipeline.analysis.preflight import refuse_at_once
from pipeline.analysis.run import carry_out
from pipeline.analysis.summary import Summary
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints import Checkpoint
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.measures.base import Reference
from pipeline.progress import Progress, Tell
from pipeline.store.store_names import store_name
from pipeline.trackers import send_results


def run_analysis(
    analysis: Analysis,
    progress: Progress = lambda *_: None,
    tell: Tell = lambda text: None,
) -> Summary:
    """Run the flow in this process; return its summary. Raises what the flow raises.

    progress(done, total, what) is called after each checkpoint, tell(text) with what is begun, and
    with where Prefect shows the run. The store has the same content as
    that of `pipeline.analyze`, which needs neither Ray nor Prefect.
    """
    refuse_at_once([analysis], run_faults)
    with cleanup.covered():
        return _run_flow(analysis, PrefectObserver(analysis.store, progress, tell))


def _run_flow(analysis: Analysis, observer: PrefectObserver) -> Summary:
    observer.tell("waiting for the Prefect server")
    require_server()

    # A flow's parameters are stored by the server as JSON: the observer is passed as a closure.
    def observed(analysis: Analysis) -> State:
        return _run(analysis, observer)

    try:
        state = make_flow(observed)(analysis, return_state=True)
    except httpx.TransportError:
        if observer.summary is None:
            raise
        return observer.summary  # the store is complete; only the server's record is not
    if observer.summary is None:
        state.result()
        raise RuntimeError(f"the flow ended as {state.name} without a summary: {state.message}")
    return observer.summary


def _flow_run_name() -> str:
    return artifacts.run_name(Analysis.model_validate(flow_run.parameters["analysis"]))


def make_flow(function: Callable[[Analysis], State]) -> Flow[..., Any]:
    """Make a flow `analyze` of a function."""
    # The results are in the store: persisting them would pickle them into Prefect's own storage.
    return flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)(function)


@flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)
def analyze(analysis: Analysis) -> State:
    """Compute what the store lacks, with one task for each checkpoint.

    Checkpoints that cannot be analysed or are not finite are named in the final state, which then
    is Failed; all others are computed. Another run computes only what is missing. Code that comes
    with a run or in a file of measures runs only if a trusted file allows it.
    """
    return run_within(analysis, code_of_trusted_files())


def run_within(analysis: Analysis, allowed: frozenset[str]) -> State:
    """Run an analysis that came as a flow's parameter; fail if its code is not allowed.

    The final state of one that is refused says why, in the words of the command line.
    """
    try:
        # First: a file allows the code of an address, not that of a variable, which may change.
        analysis = resolve_places(analysis)
        if sentence := refusal(analysis, allowed):
            return Failed(message=sentence)
        with cleanup.covered():
            return _run(analysis, PrefectObserver(analysis.store))
    except InputError as error:
        return Failed(message=str(error))


def _run(analysis: Analysis, observer: PrefectObserver) -> State:
    with drop_unsent_events():
        observer.tell(run_link())
        artifacts.tag("ontogeny", "analyze", store_name(analysis.store))
        with refreshing(analysis.store) as observer.refresher:
            summary = carry_out(analysis, _executor(observer.tell), observer, run_faults)
        reachable = wait_for_server()
        if analysis.log_to.places():
            observer.stage("trackers", lambda: send_results(analysis, summary))
        observer.stage("report", lambda: observer.report(summary))
        if reachable:
            observer.tell("waiting until Prefect has recorded the tasks")
            wait_for_task_records(observer.tasks)
    observer.ended(summary)
    return (Completed if summary.worked else Failed)(message=summary.sentence())


@dataclass
class _RayExecutor:
    """An executor that computes on a pool of Ray actors, with a Prefect task per checkpoint."""

    pool: Pool
    threads: ThreadPoolTaskRunner

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Compute the reference numbers of a checkpoint on a worker."""
        return self.pool.references(checkpoint)

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells; yield each with its outcome as soon as it is computed."""
        return compute_cells(planned, self.pool, self.threads, ray.put)


def _executor(tell: Tell) -> Callable[[Prepared], AbstractContextManager[_RayExecutor]]:
    return lambda prepared: _ray_executor(prepared, tell)


@contextmanager
def _ray_executor(prepared: Prepared, tell: Tell) -> Iterator[_RayExecutor]:
    workers = prepared.job.analysis.workers
    # The pool is closed before the threads are joined: a task that still waits for a worker then
    # fails at once instead of blocking the exit.
    with make_task_runner(workers.most) as threads, make_pool(prepared, tell) as pool:
        yield _RayExecutor(pool, threads)


def make_pool(prepared: Prepared, tell: Tell = lambda text: None) -> Pool:
    """Make the pool of Ray actors that the analysis asks for. tell: see `run_analysis`."""
    timeout = prepared.job.analysis.workers.timeout
    return Pool(lambda: start_workers(prepared.job, tell=tell), timeout)
