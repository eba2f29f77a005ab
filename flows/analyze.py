"""The flow: list and prepare, the reference, one task per checkpoint, trajectories, report.

It is `pipeline.main` with a pool of workers in place of one, and a record of what happened.
"""

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.reporting import write_beside
from flows.server import reach_server
from flows.workers import Pool, may_pass
from pipeline.aggregate.trajectories import publish
from pipeline.config import Analysis
from pipeline.lease import Lease, owned
from pipeline.main import Summary, reference_pass, settle
from pipeline.measures.base import Reference
from pipeline.plan import Cell, Plan, Prepared, plan, prepare, stored_references
from pipeline.report import findings
from pipeline.survey import Survey, survey
from pipeline.worker import Outcome

Progress = Callable[[int, int, str], None]

_ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_RECORDING_SECONDS = 60


@dataclass
class _Watcher:
    """Who runs the flow in this process, and wants more of it than its final state."""

    progress: Progress
    summary: Summary | None = None


_watcher: ContextVar[_Watcher | None] = ContextVar("watcher", default=None)


def run_analysis(analysis: Analysis, progress: Progress = lambda *_: None) -> Summary:
    """Run the flow here and now. Raises what it raised; see `pipeline.main.analyze`."""
    reach_server()
    watcher = _Watcher(progress)
    token = _watcher.set(watcher)
    try:
        state = analyze(analysis, return_state=True)
    finally:
        _watcher.reset(token)
    if watcher.summary is None:
        state.result()
        raise RuntimeError(f"the flow ended as {state.name} without a summary: {state.message}")
    return watcher.summary


@dataclass
class _Run:
    """One run of the flow: what became of each checkpoint, and how many tasks it took."""

    summary: Summary
    table: list[dict[str, Any]] = field(default_factory=list)
    tasks: int = 0

    def settle(self, cell: Cell, result: Outcome | Exception) -> None:
        settle(self.summary, cell, result)
        self.table.append(_table_row(cell, result))


def _flow_run_name() -> str:
    store = Analysis.model_validate(flow_run.parameters["analysis"]).store
    return f"analyze {store.rstrip('/').rpartition('/')[2]}"


@flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)
def analyze(analysis: Analysis) -> State:
    """Compute what the store lacks, with one task for each checkpoint.

    Checkpoints that cannot be analysed are named in the final state, which then is Failed; all
    others are computed. Running it again computes what is missing, and nothing else.
    """
    surveyed = _audit(analysis)
    run = _Run(Summary(analysis.store, masked=surveyed.masked))
    prepared = _prepare(analysis, surveyed)
    with owned(prepared.job.store) as lease:
        _fill(prepared, lease, run)
    _report(analysis, run)
    run.tasks += 3  # "audit", "prepare" and "report"
    _await_records(run.tasks)
    if watcher := _watcher.get():
        watcher.summary = run.summary
    outcome = Failed if run.summary.failed else Completed
    return outcome(message=run.summary.sentence())


@task(name="audit", cache_policy=NO_CACHE)
def _audit(analysis: Analysis) -> Survey:
    """List the checkpoints, and say what is wrong with them before any is computed."""
    surveyed = survey(analysis)
    get_run_logger().info("%d checkpoints to analyse", len(surveyed.checkpoints))
    if (verdict := surveyed.verdict) is not None:
        get_run_logger().info(verdict.sentence())
        table = verdict.as_json()["faults"]
        create_table_artifact(table, key="audit", description=verdict.sentence())
    return surveyed


def _fill(prepared: Prepared, lease: Lease, run: _Run) -> None:
    """Compute what the store lacks, as its owner."""
    workers = prepared.job.analysis.workers.count
    # The pool ends first: what waits for an actor then fails at once instead of holding the exit.
    with ThreadPoolTaskRunner(Pool.IN_FLIGHT * workers) as threads, Pool(prepared.job) as pool:
        references = _references(prepared, pool, run)
        lease.check()
        planned = plan(prepared, references)
        run.summary.complete = planned.complete
        for done, (cell, result) in enumerate(_computed(planned, pool, threads), start=1):
            run.settle(cell, result)
            _tell(done, len(planned.cells), f"step {cell.checkpoint.step}")
    lease.check()
    _publish(prepared)
    run.tasks += len(planned.cells) + 1


@task(name="prepare", cache_policy=NO_CACHE)
def _prepare(analysis: Analysis, surveyed: Survey) -> Prepared:
    """Make the inputs and the store."""
    return prepare(analysis, surveyed)


def _references(prepared: Prepared, pool: Pool, run: _Run) -> dict[str, Reference]:
    stored = stored_references(prepared)
    if stored is not None:
        return stored
    run.tasks += 1
    return _reference(prepared, pool, run.summary)


@task(name="reference", cache_policy=NO_CACHE)
def _reference(prepared: Prepared, pool: Pool, summary: Summary) -> dict[str, Reference]:
    """What measures need of the last checkpoint before any other is computed."""
    return reference_pass(prepared, pool.references, summary)


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
def _checkpoint(step: int, cell: Cell, pool: Pool) -> Outcome:
    """Compute and commit what is missing at one checkpoint."""
    outcome = pool.compute(cell)
    get_run_logger().info(
        "computed %s: read in %.2f s, computed in %.2f s",
        ", ".join(outcome.computed) or "nothing (all is stored)",
        outcome.reading,
        outcome.computing,
    )
    return outcome


def _computed(
    planned: Plan, pool: Pool, threads: ThreadPoolTaskRunner
) -> Iterator[tuple[Cell, Outcome | Exception]]:
    """Each cell with its outcome, as they come."""
    if not planned.cells:
        return
    pool.assign(planned)
    futures: dict[PrefectFuture[Outcome], Cell] = {
        threads.submit(
            _checkpoint, {"step": cell.checkpoint.step, "cell": cell, "pool": pool}
        ): cell
        for cell in planned.cells
    }
    for future in as_completed(list(futures)):
        yield futures[future], future.result(raise_on_failure=False)


@task(name="trajectories", cache_policy=NO_CACHE)
def _publish(prepared: Prepared) -> None:
    """Rewrite the small arrays contiguously along the steps, for quick queries."""
    publish(prepared.job.store)


@task(name="report", cache_policy=NO_CACHE)
def _report(analysis: Analysis, run: _Run) -> None:
    """Write the pages; put what was found and computed beside the flow run."""
    page = write_beside(analysis.store)
    found = findings(analysis.store)
    head = [run.summary.sentence(), "", run.summary.loading(), ""]
    lines = [*head, *(f"- {line}" for line in found), "", f"Report: `{page}`"]
    create_markdown_artifact("\n".join(lines), key="findings", description=analysis.store)
    table = sorted(run.table, key=lambda row: row["step"])
    create_table_artifact(table, key="checkpoints", description=run.summary.sentence())


def _table_row(cell: Cell, result: Outcome | Exception) -> dict[str, Any]:
    if isinstance(result, Outcome):
        seconds = round(result.reading + result.computing, 3)
        return {
            "step": result.step,
            "computed": ", ".join(result.computed),
            "seconds": seconds,
            "failure": "",
        }
    return {"step": cell.checkpoint.step, "computed": "", "seconds": None, "failure": str(result)}


def _tell(done: int, total: int, what: str) -> None:
    if watcher := _watcher.get():
        watcher.progress(done, total, what)


def _await_records(tasks: int) -> None:
    """Wait until the server has recorded how every task ended.

    An embedded server ends with this process, and drops the records that it has not written.
    """
    question = {
        "flow_runs": {"id": {"any_": [str(flow_run.id)]}},
        "task_runs": {"state": {"type": {"any_": _ENDED}}},
    }
    deadline = time.monotonic() + _RECORDING_SECONDS
    with get_client(sync_client=True) as client:
        while client.request("POST", "/task_runs/count", json=question).json() < tasks:
            if time.monotonic() > deadline:
                get_run_logger().warning("the server has not recorded all of %d tasks", tasks)
                return
            time.sleep(0.2)
