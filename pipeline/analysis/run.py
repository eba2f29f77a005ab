"""The main path: checkpoints in, a store of measures out.

`carry_out` is the one loop. Its executor computes checkpoints (in this process, or on Ray), and its
observer is notified of progress (a progress bar, Prefect).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

from pipeline.analysis.job import Cell, Job, Plan, Prepared
from pipeline.analysis.machine import machine_faults
from pipeline.analysis.plan import plan, stored_references
from pipeline.analysis.preflight import FaultsOf, prepare, survey_or_refuse
from pipeline.analysis.summary import NON_FINITE, Summary
from pipeline.analysis.survey import Survey
from pipeline.analysis.transient import TRANSIENT
from pipeline.analysis.worker import Outcome, Worker
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.floats import NonFiniteError
from pipeline.config import Analysis
from pipeline.errors import CheckpointError
from pipeline.measures.base import Reference
from pipeline.progress import Progress, Tell
from pipeline.store.lease import owned
from pipeline.store.non_finite import keep_not_finite
from pipeline.store.reclaim import seal, tidy
from pipeline.store.trajectories import publish

Result = TypeVar("Result")

# What each stage of a run does, for whoever waits for it.
STAGES = {
    "audit": "listing and auditing the checkpoints",
    "prepare": "making the inputs and checking the measures",
    "reference": "computing the reference",
    "trajectories": "writing the trajectories",
    "trackers": "sending the results to experiment trackers",
    "report": "writing the report",
}


@runtime_checkable
class Executor(Protocol):
    """A way to compute checkpoints."""

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Return the references of a checkpoint, as `Worker.references` does."""
        ...

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells of a plan; yield each with its outcome or error, in any order."""
        ...


class Observer:
    """A receiver of a run's events. This base class ignores them."""

    def stage(self, name: str, work: Callable[[], Result]) -> Result:
        """Run one stage of the run ("audit", "prepare", "reference" or "trajectories")."""
        return work()

    def surveyed(self, surveyed: Survey) -> None:
        """Handle the end of the survey: the checkpoints are listed and audited."""

    def prepared(self, prepared: Prepared) -> None:
        """Handle the end of preparation: the inputs and the store exist."""

    def planned(self, planned: Plan) -> None:
        """Handle the plan: the cells that the store lacks."""

    def settled(self, done: int, total: int, cell: Cell, result: Outcome | Exception) -> None:
        """Handle one checkpoint that was computed or has failed, `done` of `total`."""


class ProgressObserver(Observer):
    """An observer that calls progress(done, total, what) after each checkpoint.

    tell: called with what is begun.
    """

    def __init__(self, progress: Progress, tell: Tell = lambda text: None) -> None:
        self._progress, self._tell, self._failed = progress, tell, 0

    def stage(self, name: str, work: Callable[[], Result]) -> Result:
        """Report what is begun."""
        self._tell(STAGES[name])
        return work()

    def prepared(self, prepared: Prepared) -> None:
        """Report that the model is built."""
        self._tell("building the model")

    def planned(self, planned: Plan) -> None:
        """Report how many checkpoints are computed."""
        self._tell(f"computing {len(planned.cells)} checkpoints")

    def settled(self, done: int, total: int, cell: Cell, result: Outcome | Exception) -> None:
        """Report the numbers of finished and of failed checkpoints."""
        self._failed += not isinstance(result, Outcome)
        self._progress(done, total, last_done(cell, self._failed))


def last_done(cell: Cell, failed: int) -> str:
    """Return which checkpoint was the last one, and how many have failed."""
    return f"step {cell.checkpoint.step}" + (f", {failed} failed" if failed else "")


def analyze(
    analysis: Analysis,
    progress: Progress = lambda done, total, what: None,
    tell: Tell = lambda text: None,
) -> Summary:
    """Compute everything that the store lacks, in this process, one checkpoint after another.

    The command `ontogeny analyze` runs the same analysis as a Prefect flow with a pool of Ray
    workers, and writes the report; its option `--serial` calls this function. Both write the same
    store.

    progress(done, total, what) is called after each checkpoint, tell(text) with what is begun, as
    in "writing the trajectories". A checkpoint that fails is recorded in the summary, and the
    others are computed. Raises InputError, with a line for each fault, before anything is written;
    also where another analysis owns the store.
    """
    return carry_out(
        analysis,
        lambda prepared: nullcontext(Serial(prepared.job)),
        ProgressObserver(progress, tell),
    )


def carry_out(
    analysis: Analysis,
    executor: Callable[[Prepared], AbstractContextManager[Executor]],
    observer: Observer,
    faults_of: FaultsOf = machine_faults,
) -> Summary:
    """Survey a run, compute what the store lacks, and publish it.

    Raises InputError, with a line for each fault, before the executor starts. executor: returns a
    context manager of the executor that computes the checkpoints. faults_of: of the place where it
    computes them.
    """
    surveyed = observer.stage("audit", lambda: survey_or_refuse(analysis, faults_of))
    observer.surveyed(surveyed)
    prepared = observer.stage("prepare", lambda: prepare(analysis, surveyed, faults_of))
    observer.prepared(prepared)
    summary = Summary.of(prepared)
    with owned(prepared.job.store) as lease:
        with executor(prepared) as workers:
            references = _references(prepared, workers, observer, summary)
            # The reference may have taken long: another analysis may be computing the same by now.
            lease.check()
            planned = plan(prepared, references)
            summary.complete = planned.complete
            observer.planned(planned)
            for done, (cell, result) in enumerate(workers.outcomes(planned), start=1):
                summary.settle(cell.checkpoint.step, result)
                observer.settled(done, len(planned.cells), cell, result)
        lease.check()
        observer.stage("trajectories", lambda: _finish(prepared, planned, summary))
    return summary


def _references(
    prepared: Prepared, workers: Executor, observer: Observer, summary: Summary
) -> dict[str, Reference]:
    """Return the stored references, or else compute them from the last checkpoint."""
    stored = stored_references(prepared)
    if stored is not None:
        return stored
    return observer.stage("reference", lambda: _from_last(prepared, workers, summary))


def _from_last(prepared: Prepared, workers: Executor, summary: Summary) -> dict[str, Reference]:
    """Return the references from the last checkpoint; {} and a failure where it cannot be read.

    Checkpoints at the end whose weights are not finite are skipped, as the audit masks them.
    """
    for last in reversed(prepared.checkpoints):
        try:
            return workers.references(last)
        except NonFiniteError as error:
            summary.settle(last.step, error)
        except CheckpointError as error:
            summary.settle(last.step, error)
            break
    return {}


def _finish(prepared: Prepared, planned: Plan, summary: Summary) -> None:
    """Show readers what was computed; keep what is not finite; publish the trajectories.

    A group whose parameters or version changed is shown as it was before until now.
    """
    store, verdict = prepared.job.store, prepared.surveyed.verdict
    if verdict is not None:
        read = {step: summary.masked[step] for step in summary.masked.keys() - verdict.masked}
        why = {step: reason.removeprefix(NON_FINITE) for step, reason in read.items()}
        verdict = verdict.with_non_finite(why)
    store.require_groups(planned.templates)  # another coordinator may have reclaimed them
    seal(store)
    steps = _stored_steps(prepared, planned, summary)
    said = verdict and verdict.as_json()
    store.settle(planned.number, said, summary.masked, planned.variants, steps)
    found = keep_not_finite(store)
    publish(store)
    tidy(store)
    ours = {checkpoint.step for checkpoint in prepared.checkpoints}
    summary.not_finite = {step: why for step, why in found.items() if step in ours}


def _stored_steps(prepared: Prepared, planned: Plan, summary: Summary) -> dict[str, list[int]]:
    """Return by group the steps that have a row: all that were asked for and did not fail."""
    without = summary.failed.keys() | summary.masked.keys()
    return {
        group.name: [c.step for c in prepared.checkpoints_of(group) if c.step not in without]
        for group in prepared.job.groups
        if group.name in planned.variants
    }


class Serial:
    """An executor in this process; it reads the next checkpoint while it computes one."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _worker(self) -> Worker:
        return Worker(self._job)

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """Return the references of a checkpoint, as `Worker.references` does."""
        return self._worker.references(checkpoint)

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells; yield each with its outcome, in order."""
        if not planned.cells:
            return
        worker = self._worker  # created here, because `cached_property` takes no lock
        # Two: one computes while the other reads ahead (see `Worker`).
        with ThreadPoolExecutor(max_workers=2) as threads:
            yield from zip(
                planned.cells,
                threads.map(lambda cell: _attempt(worker, cell, planned), planned.cells),
                strict=True,
            )


def _attempt(worker: Worker, cell: Cell, planned: Plan) -> Outcome | Exception:
    try:
        return worker.compute(cell, planned)
    except (CheckpointError, *TRANSIENT) as error:  # others are bugs, and end the run
        return error
