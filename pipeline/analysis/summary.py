"""The summary of an analysis, for people and programs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.analysis.grouped_reasons import grouped_by_reason
from pipeline.analysis.job import Prepared
from pipeline.analysis.worker import Outcome
from pipeline.checkpoints import LeftOut
from pipeline.checkpoints.floats import NonFiniteError
from pipeline.checkpoints.left_out import in_short
from pipeline.redaction import redacted

NON_FINITE = "non-finite: "  # the audit's name of this kind of fault
_MOST_SHOWN = 20  # steps in a line; all are in the fields and in --json


@dataclass
class Summary:
    """The result of an analysis: checkpoints that were complete before, computed, or failed.

    masked: steps that the audit left out, each with the reason; also those whose weights turned out
    not to be finite when they were read. left_out: files and folders that may be checkpoints but
    were not listed, each with the reason. not_finite: steps whose rows have numbers that are NaN or
    infinite because the model's are, with the variables. undefined: groups with variables that are
    NaN at every checkpoint, each with the reason. drawn_from: the token ids from which each random
    input draws, and the reason. inputs: how texts and data sets were cut into sequences, by input.
    notes: see `pipeline.analysis.job.Prepared`. not_sent: by
    experiment tracker, why it did not receive the results. computing, idle: seconds in which the
    workers computed, and in which they waited because no checkpoint was loaded, summed over
    workers.
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
    inputs: dict[str, str] = field(default_factory=dict)
    not_sent: dict[str, str] = field(default_factory=dict)
    computing: float = 0.0
    idle: float = 0.0

    @classmethod
    def of(cls, prepared: Prepared) -> "Summary":
        """Return the summary of an analysis that has not computed anything yet."""
        surveyed = prepared.surveyed
        return cls(
            prepared.job.analysis.store,
            failed=dict(prepared.failed),
            masked=dict(surveyed.masked),
            left_out=surveyed.left_out,
            notes=list(prepared.notes),
            undefined=prepared.undefined,
            drawn_from=prepared.drawn_from,
            inputs=prepared.said_of_inputs,
        )

    def settle(self, step: int, result: Outcome | Exception) -> None:
        """Add the outcome or error of one checkpoint."""
        if isinstance(result, Outcome):
            self._add(result)
        elif isinstance(result, NonFiniteError):
            self.masked[step] = f"{NON_FINITE}{result}"
        else:
            self.failed[step] = redacted(str(result))

    def _add(self, outcome: Outcome) -> None:
        if outcome.computed:  # empty where all rows turned out to be present
            self.computed.append(outcome.step)
        else:
            self.complete += 1
        self.computing += outcome.computing
        self.idle += outcome.idle

    @property
    def idle_share(self) -> float:
        """Share of the workers' time in which they waited for weights."""
        return self.idle / (self.idle + self.computing) if self.computing else 0.0

    def drawn(self) -> str:
        """Return one line on the token ids of random inputs; "" without such an input."""
        by_source: dict[str, list[str]] = {}
        for name, source in sorted(self.drawn_from.items()):
            by_source.setdefault(source, []).append(name)
        each = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
        return f"Random tokens are drawn from ({'; '.join(each)})" if each else ""

    def loading(self) -> str:
        """Return one line on the time that workers waited for weights."""
        return (
            f"Workers computed for {self.computing:.1f} s and waited for weights for "
            f"{self.idle:.1f} s: {self.idle_share:.0%} idle"
        )

    @property
    def worked(self) -> bool:
        """True if no checkpoint failed, was left out as non-finite, or has numbers that are, and
        each tracker received the results."""
        left_out = any(reason.startswith(NON_FINITE) for reason in self.masked.values())
        return not (self.failed or self.not_finite or left_out or self.not_sent)

    def exceptions(self) -> list[str]:
        """Return a line for each reason for which steps are left out or have non-finite numbers."""
        masked = {at: f"step {at:,} is left out: {why}" for at, why in self.masked.items()}
        wrong = {at: f"not finite at step {at:,}: {what}" for at, what in self.not_finite.items()}
        return [*grouped_by_reason(masked), *grouped_by_reason(wrong)]

    def failures(self) -> list[str]:
        """Return a line for each reason for which steps failed."""
        return grouped_by_reason(self.failed)

    def sentence(self) -> str:
        """Return the result in one line, with the steps that failed, were masked or not finite."""
        total = self.complete + len(self.computed) + len(self.failed)
        masked = f"; masked by the audit: {_listed(self.masked)}" if self.masked else ""
        unsent = f"; not sent to {', '.join(self.not_sent)}" if self.not_sent else ""
        wrong = f"; not finite: {_listed(self.not_finite)}" if self.not_finite else ""
        if self.failed:
            said = f"{len(self.failed)}/{total} checkpoints failed: {_listed(self.failed)}"
        else:
            said = (
                f"{total} checkpoints: {len(self.computed)} computed, {self.complete} already "
                "complete"
            )
        return f"{said}{masked}{wrong}{unsent}{in_short(self.left_out)}"


def _listed(steps: Iterable[int]) -> str:
    """Return steps as a list, of which a long one is shortened."""
    found = sorted(steps)
    if len(found) <= _MOST_SHOWN:
        return str(found)
    return f"[{', '.join(map(str, found[:_MOST_SHOWN]))}, and {len(found) - _MOST_SHOWN} more]"
