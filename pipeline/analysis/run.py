"""The main path: checkpoints in, a store of measures out."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.analysis.plan import Cell, Plan, Prepared, plan, prepare, stored_references
from pipeline.analysis.survey import survey
from pipeline.analysis.worker import TRANSIENT, Outcome, Worker
from pipeline.checkpoints import Checkpoint, LeftOut
from pipeline.checkpoints.floats import NonFiniteError
from pipeline.checkpoints.left_out import in_short
from pipeline.config import Analysis
from pipeline.errors import CheckpointError
from pipeline.measures.base import Reference
from pipeline.store.lease import Lease, owned
from pipeline.store.non_finite import steps_not_finite
from pipeline.store.trajectories import publish

Progress = Callable[[int, int, str], None]
NON_FINITE = "non-finite: "  # how the audit names this kind of fault


@dataclass
class Summary:
    """What an analysis did: how many checkpoints were complete before, computed, or failed.

    masked: steps that the audit left out, each with the reason; also those whose weights proved
    not to be finite when they were read. left_out: what lies beside the checkpoints and may be
    one, but is not listed, each with the reason. not_finite: steps whose rows have numbers that are
    NaN or infinite because the model's are, with the variables. undefined: groups with variables
    that are NaN at every checkpoint, each with the reason. drawn_from: which token ids each random
    input draws from, and why these. computing, idle: seconds that the
    workers computed, and waited with checkpoints to do because none was loaded; summed over them.
    notes: see `pipeline.analysis.plan.Prepared`.
    """

    store: str
    complete: int = 0
    computed: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    masked: dict[int, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    not_finite: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undefined: dict[str, str] = field(default_factory=dict)
    drawn_from: dict[str, str] = field(default_factory=dict)
    computing: float = 0.0
    idle: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one cell that succeeded."""
        if outcome.computed:
            self.computed.append(outcome.step)
        else:
            self.complete += 1
        self.computing += outcome.computing
        self.idle += outcome.idle

    @property
    def idle_share(self) -> float:
        """The share of their time in which the workers waited for weights."""
        return self.idle / (self.idle + self.computing) if self.computing else 0.0

    def drawn(self) -> str:
        """Which token ids the random inputs draw from, in one line; "" without such an input."""
        by_source: dict[str, list[str]] = {}
        for name, source in sorted(self.drawn_from.items()):
            by_source.setdefault(source, []).append(name)
        each = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
        return f"Random tokens are drawn from ({'; '.join(each)})" if each else ""

    def loading(self) -> str:
        """How well loading was hidden behind computing, in one line."""
        return (
            f"Workers computed for {self.computing:.1f} s and waited for weights for "
            f"{self.idle:.1f} s: {self.idle_share:.0%} idle"
        )

    @property
    def worked(self) -> bool:
        """Whether nothing failed, and nothing was left out or is NaN for want of finite numbers."""
        left_out = any(reason.startswith(NON_FINITE) for reason in self.masked.values())
        return not (self.failed or self.not_finite or left_out)

    def exceptions(self) -> list[str]:
        """A line for each step that was left out, and for each with numbers that are not finite."""
        return [
            *(f"step {step:,} is left out: {why}" for step, why in sorted(self.masked.items())),
            *(f"not finite at step {at:,}: {what}" for at, what in sorted(self.not_finite.items())),
        ]

    def sentence(self) -> str:
        """The result in one line, naming the steps that failed, were masked or are not finite."""
        total = self.complete + len(self.computed) + len(self.failed)
        masked = f"; masked by the audit: {sorted(self.masked)}" if self.masked else ""
        wrong = f"; not finite: {sorted(self.not_finite)}" if self.not_finite else ""
        if self.failed:
            said = f"{len(self.failed)}/{total} checkpoints failed: {sorted(self.failed)}"
        else:
            said = (
                f"{total} checkpoints: {len(self.computed)} computed, {self.complete} already "
                "complete"
            )
        return f"{said}{masked}{wrong}{in_short(self.left_out)}"


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
    surveyed = survey(analysis)
    prepared = prepare(analysis, surveyed)
    summary = Summary(
        analysis.store,
        failed=dict(prepared.failed),
        masked=dict(surveyed.masked),
        left_out=surveyed.left_out,
        notes=list(prepared.notes),
        undefined=prepared.undefined,
        drawn_from=prepared.drawn_from,
    )
    with owned(prepared.job.store) as lease:
        _fill(prepared, lease, summary, progress)
    return summary


def _fill(prepared: Prepared, lease: Lease, summary: Summary, progress: Progress) -> None:
    """Compute what the store lacks, as its owner."""
    references = stored_references(prepared)
    worker = None
    if references is None:
        worker = Worker(prepared.job)
        references = reference_pass(prepared, worker.references, summary)
    lease.check()
    planned = plan(prepared, references)
    summary.complete = planned.complete
    if planned.cells:
        worker = worker or Worker(prepared.job)
        for done, (cell, result) in enumerate(_computed(worker, planned), start=1):
            settle(summary, cell, result)
            progress(done, len(planned.cells), f"step {cell.checkpoint.step}")
    lease.check()
    finish(prepared, summary)


def finish(prepared: Prepared, summary: Summary) -> None:
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


def reference_pass(
    prepared: Prepared,
    references_of: Callable[[Checkpoint], dict[str, Reference]],
    summary: Summary,
) -> dict[str, Reference]:
    """The references from the last checkpoint; none (and a failure) where it cannot be read.

    From the last but one where the last one's weights are not finite: the audit leaves it out.
    """
    for last in reversed(prepared.checkpoints):
        try:
            return references_of(last)
        except NonFiniteError as error:
            summary.masked[last.step] = f"{NON_FINITE}{error}"
        except CheckpointError as error:
            summary.failed[last.step] = str(error)
            break
    return {}


def settle(summary: Summary, cell: Cell, result: Outcome | Exception) -> None:
    """Enter one cell's result into the summary."""
    if isinstance(result, Outcome):
        summary.add(result)
    elif isinstance(result, NonFiniteError):
        summary.masked[cell.checkpoint.step] = f"{NON_FINITE}{result}"
    else:
        summary.failed[cell.checkpoint.step] = str(result)


def _computed(worker: Worker, planned: Plan) -> Iterator[tuple[Cell, Outcome | Exception]]:
    """Each cell with its outcome, in order; the next checkpoint is read while one computes."""
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
