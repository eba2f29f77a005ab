"""An experiment: claims, and a function that tests them by training and analysing models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import InputError
from pipeline.experiments.claims import Claim, Finding
from pipeline.experiments.runs import Result, Run, Runs

Answer = Callable[[Runs], Iterator[Finding]]


@dataclass(frozen=True)
class Experiment:
    """Claims that are tested together. answer: yields a finding for each of them, in order."""

    name: str
    title: str
    claims: tuple[Claim, ...]
    answer: Answer


@dataclass(frozen=True)
class Outcome:
    """The findings of an experiment. stores: of the runs it used.

    seconds: of the processor, that these took.
    """

    experiment: Experiment
    findings: Sequence[Finding]
    stores: Sequence[str]
    seconds: float
    quick: bool


@dataclass
class _Recording:
    """Runs of an experiment that are carried out by others, and listed."""

    runs: Runs
    used: dict[str, Result] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        return self.runs.quick

    @property
    def text(self) -> str | None:
        return self.runs.text

    def results(self, runs: Sequence[Run]) -> list[Result]:
        found = self.runs.results(runs)
        self.used |= {one.store: one for one in found}
        return found


def run_experiment(experiment: Experiment, runs: Runs) -> Outcome:
    """Carry out an experiment; raises InputError if a run fails, or a claim gets no finding."""
    recording = _Recording(runs)
    findings = list(experiment.answer(recording))
    named = [one.claim.name for one in findings]
    if named != [claim.name for claim in experiment.claims]:
        raise InputError(
            f"experiment {experiment.name}: found {', '.join(named)}, expected one finding for "
            f"each of {', '.join(claim.name for claim in experiment.claims)}"
        )
    seconds = sum(one.seconds for one in recording.used.values())
    return Outcome(experiment, findings, list(recording.used), seconds, runs.quick)
