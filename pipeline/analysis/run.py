"""The main path: checkpoints in, a store of measures out.

`carry_out` is the one loop. Where checkpoints are computed (in this process, on Ray) is its
executor; who is told of it (a progress bar, Prefect) is its observer.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

from pipeline.analysis.plan import Cell, Job, Plan, Prepared, plan, prepare, stored_references
from pipeline.analysis.summary import NON_FINITE, Summary
from pipeline.analysis.survey import Survey, survey
from pipeline.analysis.worker import Outcome, Worker
from pipeline.checkpoints import Checkpoint
from pipeline.checkpoints.floats import NonFiniteError
from pipeline.config import Analysis
from pipeline.errors import CheckpointError
from pipeline.measures.base import Reference
from pipeline.retrying import TRANSIENT
from pipeline.store.lease import owned
from pipeline.store.non_finite import steps_not_finite
from pipeline.store.trajectories import publish

Progress = Callable[[int, int, str], None]
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Where checkpoints are computed."""

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """See `pipeline.analysis.worker.Worker.references`."""
        ...

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells of a plan; yield each with what became of it, in any order."""
        ...


class Observer:
    """Is told of a run while it goes on. This one does nothing with it."""

    def stage(self, name: str, work: Callable[[], Result]) -> Result:
        """Do one stage of the run ("audit", "prepare", "reference" or "trajectories")."""
        return work()

    def surveyed(self, surveyed: Survey) -> None:
        """The checkpoints are listed and audited."""

    def prepared(self, prepared: Prepared) -> None:
        """The inputs and the store are made."""

    def planned(self, planned: Plan) -> None:
        """It is known what the store lacks."""

    def settled(self, done: int, total: int, cell: Cell, result: Outcome | Exception) -> None:
        """One checkpoint is computed, or has failed: `done` of `total`."""


class ProgressObserver(Observer):
    """Calls progress(done, total, what) after each checkpoint."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def settled(self, done: int, total: int, cell: Cell, result: Outcome | Exception) -> None:
        """Tell how many checkpoints are done."""
        self._progress(done, total, f"step {cell.checkpoint.step}")


def analyze(
    analysis: Analysis,
    progress: Progress = lambda done, total, what: None,
) -> Summary:
    """Compute all that the store lacks, in this process, one checkpoint after another.

    The command `ontogeny analyze` runs the same analysis as a Prefect flow with a pool of Ray
    workers, and writes the report; its option `--serial` calls this function. Both write the same
    store.

    progress(done, total, what) is called after each checkpoint. A bad checkpoint is recorded in
    the summary, the others are computed. Raises InputError before anything is written; also where
    another analysis owns the store.
    """
    return carry_out(
        analysis, lambda prepared: nullcontext(Serial(prepared.job)), ProgressObserver(progress)
    )


def carry_out(
    analysis: Analysis,
    executor: Callable[[Prepared], AbstractContextManager[Executor]],
    observer: Observer,
) -> Summary:
    """Survey a run, compute what the store lacks, and publish it. Raises InputError.

    executor: gives, for as long as the block lasts, what computes the checkpoints.
    """
    surveyed = observer.stage("audit", lambda: survey(analysis))
    observer.surveyed(surveyed)
    prepared = observer.stage("prepare", lambda: prepare(analysis, surveyed))
    observer.prepared(prepared)
    summary = Summary.of(prepared)
    with owned(prepared.job.store) as lease:
        with executor(prepared) as workers:
            references = _references(prepared, workers, observer, summary)
            lease.check()
            planned = plan(prepared, references)
            summary.complete = planned.complete
            observer.planned(planned)
            for done, (cell, result) in enumerate(workers.outcomes(planned), start=1):
                summary.settle(cell.checkpoint.step, result)
                observer.settled(done, len(planned.cells), cell, result)
        lease.check()
        observer.stage("trajectories", lambda: _finish(prepared, summary))
    return summary


def _references(
    prepared: Prepared, workers: Executor, observer: Observer, summary: Summary
) -> dict[str, Reference]:
    """The references that are stored; else from the last checkpoint."""
    stored = stored_references(prepared)
    if stored is not None:
        return stored
    return observer.stage("reference", lambda: _from_last(prepared, workers, summary))


def _from_last(prepared: Prepared, workers: Executor, summary: Summary) -> dict[str, Reference]:
    """The references from the last checkpoint; none (and a failure) where it cannot be read.

    From the last but one where the last one's weights are not finite: the audit leaves it out.
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


def _finish(prepared: Prepared, summary: Summary) -> None:
    """Keep in the store, and in the summary, what is not finite; publish the trajectories."""
    store, verdict = prepared.job.store, prepared.surveyed.verdict
    if verdict is not None:
        read = {step: summary.masked[step] for step in summary.masked.keys() - verdict.masked}
        why = {step: reason.removeprefix(NON_FINITE) for step, reason in read.items()}
        verdict = verdict.with_non_finite(why)
    store.set_verdict(verdict and verdict.as_json(), summary.masked)
    found = steps_not_finite(store)
    store.set_not_finite(found)
    publish(store)
    steps = {checkpoint.step for checkpoint in prepared.checkpoints}
    summary.not_finite = {step: why for step, why in found.items() if step in steps}


class Serial:
    """Computes in this process; the next checkpoint is read while one computes."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _worker(self) -> Worker:
        return Worker(self._job)

    def references(self, checkpoint: Checkpoint) -> dict[str, Reference]:
        """See `pipeline.analysis.worker.Worker.references`."""
        return self._worker.references(checkpoint)

    def outcomes(self, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
        """Compute all cells; yield each with its outcome, in order."""
        if not planned.cells:
            return
        worker = self._worker  # made before the threads ask for it
        with ThreadPoolExecutor(max_workers=2) as threads:
            yield from zip(
                planned.cells,
                threads.map(lambda cell: _attempt(worker, cell, planned), planned.cells),
                strict=True,
            )


def _attempt(worker: Worker, cell: Cell, planned: Plan) -> Outcome | Exception:
    try:
        return worker.compute(cell, planned)
    except (CheckpointError, *TRANSIENT) as error:
        return error
