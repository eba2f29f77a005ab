"""The flow: `pipeline.analysis.run` on Ray workers, with a task for each checkpoint.

Its executor is a pool of Ray actors, its observer Prefect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import ray
from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts
from flows.dispatch import Pool
from flows.fanout import await_records, await_server, computed, dropping_unsent_events, threads_for
from flows.observer import PrefectObserver
from flows.server import reach_server
from flows.workers import hire
from pipeline.analysis.plan import Cell, Plan, Prepared
from pipeline.analysis.run import Progress, carry_out
from pipeline.analysis.summary import Summary
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints import Checkpoint
from pipeline.config import Analysis
from pipeline.measures.base import Reference
from pipeline.store.objects import store_name


def run_analysis(analysis: Analysis, progress: Progress = lambda *_: None) -> Summary:
    """Run the flow here and now; returns what it did. Raises what it raised.

    progress(done, total, what) is called after each checkpoint. The store is that of
    `pipeline.analyze`, which does the same in one process, without Ray and Prefect.
    """
    reach_server()
    observer = PrefectObserver(progress)

    def observed(analysis: Analysis) -> State:
        return _analyzed(analysis, observer)

    try:
        state = _as_flow(observed)(analysis, return_state=True)
    except httpx.TransportError:
        if observer.summary is None:
            raise
        return observer.summary  # all is done, and the server has gone without being told
    if observer.summary is None:
        state.result()
        raise RuntimeError(f"the flow ended as {state.name} without a summary: {state.message}")
    return observer.summary


def _flow_run_name() -> str:
    return artifacts.run_name(Analysis.model_validate(flow_run.parameters["analysis"]))


def _as_flow(function: Callable[[Analysis], State]) -> Flow[..., Any]:
    return flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)(function)


@flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)
def analyze(analysis: Analysis) -> State:
    """Compute what the store lacks, with one task for each checkpoint.

    Checkpoints that cannot be analysed, or are not finite, are named in the final state, which then
    is Failed; all others are computed. Running it again computes what is missing, and nothing else.
    """
    return _analyzed(analysis, PrefectObserver())


def _analyzed(analysis: Analysis, observer: PrefectObserver) -> State:
    with dropping_unsent_events():
        artifacts.tag("ontogeny", store_name(analysis.store))
        summary = carry_out(analysis, _on_ray, observer)
        there = await_server()
        observer.stage("report", lambda: observer.report(summary))
        if there:
            await_records(observer.tasks)
    observer.ended(summary)
    return (Completed if summary.worked else Failed)(message=summary.sentence())


@dataclass
class _RayExecutor:
    """Computes checkpoints on a pool of Ray actors, as Prefect tasks in threads."""

    pool: Pool
    threads: ThreadPoolTaskRunner

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """See `pipeline.analysis.worker.Worker.references`."""
        return self.pool.references(checkpoint)

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells; yield each with its outcome, as they come."""
        return computed(planned, self.pool, self.threads, ray.put)


@contextmanager
def _on_ray(prepared: Prepared) -> Iterator[_RayExecutor]:
    workers = prepared.job.analysis.workers
    # The pool ends first: what waits for a worker then fails at once instead of holding the exit.
    with threads_for(workers.count) as threads, make_pool(prepared) as pool:
        yield _RayExecutor(pool, threads)


def make_pool(prepared: Prepared) -> Pool:
    """The workers that the analysis asks for, each a Ray actor."""
    return Pool(lambda: hire(prepared.job), prepared.job.analysis.workers.timeout)
