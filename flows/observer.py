"""PrefectObserver: reports the progress of an analysis as tasks, logs and artifacts."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.onset_events import emit_onset_events
from flows.refreshing import Refresher
from flows.reporting import report_page, write_store_report
from pipeline.analysis.job import Cell, Plan, Prepared
from pipeline.analysis.run import STAGES, Observer, last_done
from pipeline.analysis.summary import Summary
from pipeline.analysis.survey import Survey
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints.left_out import in_lines
from pipeline.printable import printable
from pipeline.progress import Progress, Tell

Result = TypeVar("Result")


class PrefectObserver(Observer):
    """An observer that runs each stage as a Prefect task, and logs and shows the results.

    store: its address, part of the artifacts' keys. progress: called too; None if no caller in this
    process waits for the run. tell: called with what is begun. tasks: number of task runs.
    refresher: of the report, while checkpoints are computed. summary: the result, and new: the
    onsets found for the first time, both set at the end.
    """

    def __init__(
        self, store: str, progress: Progress | None = None, tell: Tell = lambda text: None
    ) -> None:
        self._store, self._progress, self.tell, self._failed = store, progress, tell, 0
        self._table: list[dict[str, Any]] = []
        self._bar: artifacts.ProgressBar | None = None
        self.tasks = 0
        self.refresher: Refresher | None = None
        self.summary: Summary | None = None
        self.new: list[str] = []

    def stage(self, name: str, work: Callable[[], Result]) -> Result:
        """Run one stage of the analysis as a task of that name."""
        self.tasks += 1
        self.tell(STAGES[name])
        # By default Prefect computes a cache key from the arguments of each task.
        return task(name=name, cache_policy=NO_CACHE)(work)()

    def surveyed(self, surveyed: Survey) -> None:
        """Log what was listed and what was left out; show the audit as a table."""
        log = get_run_logger()
        log.info("%d checkpoints to analyse", len(surveyed.checkpoints))
        for line in in_lines(surveyed.left_out):
            log.warning("left out, %s", line)
        if (verdict := surveyed.verdict) is not None:
            log.info(verdict.sentence())
            self._show_table("audit", verdict.as_json()["faults"], verdict.sentence())

    def prepared(self, prepared: Prepared) -> None:
        """Log the notes; add the checkpoints that cannot be computed to the table."""
        for note in prepared.notes:
            get_run_logger().warning(note)
        self._table += [_failed_row(step, reason) for step, reason in prepared.failed.items()]

    def planned(self, planned: Plan) -> None:
        """Create the progress bar."""
        self.tell(f"computing {len(planned.cells)} checkpoints")
        self._bar = artifacts.ProgressBar(self._store, len(planned.cells))

    def settled(self, done: int, total: int, cell: Cell, result: Outcome | Exception) -> None:
        """Add one checkpoint to the table; update the progress bar and the report."""
        self.tasks += 1
        self._failed += not isinstance(result, Outcome)
        self._table.append(_table_row(cell, result))
        if self._bar is not None:
            self._bar.move(done)
        if self.refresher is not None and self.refresher.refresh():
            store = self.refresher.store
            artifacts.show_report(store, report_page(store))
        if self._progress is not None:
            self._progress(done, total, last_done(cell, self._failed))

    def report(self, summary: Summary) -> None:
        """Write the report; show the findings and the table of checkpoints."""
        for exception in summary.exceptions():
            get_run_logger().warning("%s", exception)
        page = write_store_report(summary.store)
        self.new = emit_onset_events(summary.store)
        artifacts.show_findings(summary, page, self.new)
        table = [
            {**row, "not_finite": summary.not_finite.get(row["step"], "")} for row in self._table
        ]
        self._show_table("checkpoints", in_order(table), summary.sentence())

    def _show_table(self, kind: str, table: list[dict[str, Any]], description: str) -> None:
        artifacts.show_table(artifacts.artifact_key(kind, self._store), table, description)

    def ended(self, summary: Summary) -> None:
        """Keep the summary for the caller; print it if there is none in this process."""
        self.summary = summary
        # Without a caller the flow is served, and the terminal that serves it shows the result.
        if self._progress is None:
            print_result(summary, self.new)


def in_order(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of checkpoints by step: those that failed first, then those not finite."""
    return sorted(table, key=lambda row: (not row["failure"], not row["not_finite"], row["step"]))


def print_result(summary: Summary, new: Sequence[str]) -> None:
    """Print the summary of a run, what was left out of it, and the new onsets."""
    left_out = (f"left out, {line}" for line in in_lines(summary.left_out))
    for line in (f"{summary.store}: {summary.sentence()}", *left_out, *new):
        print(printable(f"{datetime.now():%H:%M:%S} {line}"), flush=True)


def _table_row(cell: Cell, result: Outcome | Exception) -> dict[str, Any]:
    if not isinstance(result, Outcome):
        return _failed_row(cell.checkpoint.step, str(result))
    return {
        "step": result.step,
        "computed": ", ".join(result.computed),
        "read_s": round(result.reading, 3),
        "computed_s": round(result.computing, 3),
        "deviation": "batch halved because memory was short" if result.halved else "",
        "failure": "",
    }


def _failed_row(step: int, reason: str) -> dict[str, Any]:
    nothing = {"computed": "", "read_s": None, "computed_s": None, "deviation": ""}
    return {"step": step, **nothing, "failure": reason}
