"""The flow: list and prepare, the reference, one task per checkpoint, trajectories, report.

It is `pipeline.analysis.run` with a pool of workers in place of one, and a record of what happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import ray
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import artifacts as showing
from flows.caller import Progress, calling, hand_over, tell
from flows.dispatch import Pool
from flows.fanout import (
    await_records,
    await_server,
    computed,
    threads_for,
    untold_is_given_up,
)
from flows.onset_events import announce
from flows.reporting import write_beside
from flows.server import reach_server
from flows.workers import hire
from pipeline.analysis.plan import Cell, Prepared, plan, prepare, stored_references
from pipeline.analysis.run import Summary, finish, reference_pass, settle
from pipeline.analysis.survey import Survey, survey
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints.left_out import in_lines
from pipeline.config import Analysis
from pipeline.measures.base import Reference
from pipeline.store.lease import Lease, owned
from pipeline.store.objects import store_name


def run_analysis(analysis: Analysis, progress: Progress = lambda *_: None) -> Summary:
    """Run the flow here and now. Raises what it raised; see `pipeline.analysis.run.analyze`."""
    reach_server()
    with calling(progress) as caller:
        try:
            state = analyze(analysis, return_state=True)
        except httpx.TransportError:
            if caller.summary is None:
                raise
            return caller.summary  # all is done, and the server has gone without being told
    if caller.summary is None:
        state.result()
        raise RuntimeError(f"the flow ended as {state.name} without a summary: {state.message}")
    return caller.summary


@dataclass
class _Run:
    """One run of the flow: what became of each checkpoint, and how many tasks it took.

    new: what has set in since the store was last looked at.
    """

    summary: Summary
    table: list[dict[str, Any]] = field(default_factory=list)
    tasks: int = 0
    new: list[str] = field(default_factory=list)

    def refuse(self, failed: Mapping[int, str]) -> None:
        """Enter the checkpoints that cannot be computed because of their config.json."""
        self.summary.failed.update(failed)
        self.table += [_failed_row(step, reason) for step, reason in failed.items()]

    def settle(self, cell: Cell, result: Outcome | Exception) -> None:
        settle(self.summary, cell, result)
        self.table.append(_table_row(cell, result))


def _flow_run_name() -> str:
    return showing.run_name(Analysis.model_validate(flow_run.parameters["analysis"]))


@flow(name="analyze", flow_run_name=_flow_run_name, persist_result=False)
def analyze(analysis: Analysis) -> State:
    """Compute what the store lacks, with one task for each checkpoint.

    Checkpoints that cannot be analysed, or are not finite, are named in the final state, which then
    is Failed; all others are computed. Running it again computes what is missing, and nothing else.
    """
    with untold_is_given_up():
        run = _run(analysis)
    hand_over(run.summary, run.new)
    return (Completed if run.summary.worked else Failed)(message=run.summary.sentence())


def _run(analysis: Analysis) -> _Run:
    showing.tag("ontogeny", store_name(analysis.store))
    surveyed = _audit(analysis)
    run = _Run(Summary(analysis.store, masked=dict(surveyed.masked), left_out=surveyed.left_out))
    prepared = _prepare(analysis, surveyed)
    run.summary.notes = list(prepared.notes)
    run.summary.undefined = prepared.undefined
    run.summary.drawn_from = prepared.drawn_from
    run.refuse(prepared.failed)
    with owned(prepared.job.store) as lease:
        _fill(prepared, lease, run)
    there = await_server()
    _report(run)
    run.tasks += 3  # "audit", "prepare" and "report"
    if there:
        await_records(run.tasks)
    return run


@task(name="audit", cache_policy=NO_CACHE)
def _audit(analysis: Analysis) -> Survey:
    """List the checkpoints, and say what is wrong with them before any is computed."""
    surveyed = survey(analysis)
    get_run_logger().info("%d checkpoints to analyse", len(surveyed.checkpoints))
    for line in in_lines(surveyed.left_out):
        get_run_logger().warning("left out, %s", line)
    if (verdict := surveyed.verdict) is not None:
        get_run_logger().info(verdict.sentence())
        showing.show_table("audit", verdict.as_json()["faults"], verdict.sentence())
    return surveyed


def _fill(prepared: Prepared, lease: Lease, run: _Run) -> None:
    """Compute what the store lacks, as its owner."""
    workers = prepared.job.analysis.workers
    # The pool ends first: what waits for a worker then fails at once instead of holding the exit.
    with threads_for(workers.count) as threads, make_pool(prepared) as pool:
        references = _references(prepared, pool, run)
        lease.check()
        planned = plan(prepared, references)
        run.summary.complete = planned.complete
        bar = showing.Progress(len(planned.cells))
        outcomes = computed(planned, pool, threads, ray.put)
        for done, (cell, result) in enumerate(outcomes, start=1):
            run.settle(cell, result)
            bar.move(done)
            tell(done, len(planned.cells), f"step {cell.checkpoint.step}")
    lease.check()
    _publish(prepared, run.summary)
    run.tasks += len(planned.cells) + 1


@task(name="prepare", cache_policy=NO_CACHE)
def _prepare(analysis: Analysis, surveyed: Survey) -> Prepared:
    """Make the inputs and the store."""
    prepared = prepare(analysis, surveyed)
    for note in prepared.notes:
        get_run_logger().warning(note)
    return prepared


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


def make_pool(prepared: Prepared) -> Pool:
    """The workers that the analysis asks for, each a Ray actor."""
    return Pool(lambda: hire(prepared.job), prepared.job.analysis.workers.timeout)


@task(name="trajectories", cache_policy=NO_CACHE)
def _publish(prepared: Prepared, summary: Summary) -> None:
    """Say what is not finite; rewrite the small arrays contiguously along the steps."""
    finish(prepared, summary)
    for exception in summary.exceptions():
        get_run_logger().warning("%s", exception)


@task(name="report", cache_policy=NO_CACHE)
def _report(run: _Run) -> None:
    """Write the pages; put what was found and computed beside the flow run."""
    page = write_beside(run.summary.store)
    run.new = announce(run.summary.store)
    showing.show_findings(run.summary, page, run.new)
    wrong = run.summary.not_finite
    table = [
        {**row, "not_finite": wrong.get(row["step"], "")}
        for row in sorted(run.table, key=lambda row: row["step"])
    ]
    showing.show_table("checkpoints", table, run.summary.sentence())


def _table_row(cell: Cell, result: Outcome | Exception) -> dict[str, Any]:
    if not isinstance(result, Outcome):
        return _failed_row(cell.checkpoint.step, str(result))
    return {
        "step": result.step,
        "computed": ", ".join(result.computed),
        "read_s": round(result.reading, 3),
        "computed_s": round(result.computing, 3),
        "deviation": "batch halved for want of memory" if result.halved else "",
        "failure": "",
    }


def _failed_row(step: int, reason: str) -> dict[str, Any]:
    nothing = {"computed": "", "read_s": None, "computed_s": None, "deviation": ""}
    return {"step": step, **nothing, "failure": reason}
