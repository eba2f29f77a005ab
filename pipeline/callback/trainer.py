"""`OntogenyCallback`, a callback of transformers' Trainer."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.callback.beside import Beside, Limits, Message
from pipeline.config import Analysis, load_analysis
from pipeline.config.analysis_paths import paths_from
from pipeline.config.faults import validated
from pipeline.errors import InputError, first_line

_log = logging.getLogger(__name__)
_LOG_FILE = "ontogeny-callback.log"  # in the folder of the checkpoints
_NOT_GIVEN = "(the output_dir of the Trainer)"
_SHOWN = 5  # steps, or failures, that are named; more are counted


class OntogenyCallback(TrainerCallback):
    """Analyses each checkpoint as it is saved, in a process beside the training.

    analysis: a YAML file, or the fields of one, of which `checkpoints` may be left out: it is the
    Trainer's `output_dir` in any case. share: CPU seconds that the analysis may take for each
    second of training, at every moment; it is stopped where it would take more, so that it may be
    several checkpoints behind. After the training there is no limit. nice: added to its niceness.
    wait: seconds that the end of the training waits for the rest of the analysis; None for as long
    as it takes. say: called with each line of the findings and notes at the end.

    store, findings: the store's address and the findings, when the training has ended. In a
    training of several processes, only the first one analyses. A failure of the analysis is logged,
    and never ends the training. Raises InputError for an analysis that is not valid, before the
    training.
    """

    def __init__(
        self,
        analysis: str | Path | Mapping[str, Any] | Analysis,
        share: float = 0.1,
        nice: int = 19,
        wait: float | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if not 0 < share <= 1:
            raise InputError(f"share={share}: expected a number above 0, at most 1")
        self._analysis = _analysis(analysis)
        self._limits = Limits(share, nice)
        self._wait, self._say = wait, say
        self._beside: Beside | None = None
        self._saved: set[int] = set()
        self._folder = Path()
        self._told: set[str] = set()
        self.store, self.findings, self._notes = "", list[str](), list[str]()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the process. Raises InputError if the analysis is of another folder."""
        if not state.is_world_process_zero:
            return
        analysis = _of_folder(self._analysis, str(args.output_dir))
        self.store, self._saved, self._folder = analysis.store, set(), Path(str(args.output_dir))
        self.findings, self._notes = [], []
        self._end()  # of a training that has failed in this process
        with self._failing():
            self._beside = Beside(analysis, self._limits, self._folder / _LOG_FILE)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for an analysis of what is saved by now; returns at once."""
        if self._beside is None:
            return
        self._saved.add(state.global_step)
        with self._failing():
            self._beside.look()
            self._tell(self._beside.messages())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Wait for the rest of the analysis, and print the findings and notes."""
        if self._beside is None:
            return
        try:
            with self._failing():
                self._tell(self._beside.finish(self._wait))
        except TimeoutError:
            self._warn(f"not all was analysed within {self._wait} s: {self._remedy}")
        finally:
            self._end()
        for sentence in [*self.findings, *(f"note: {note}" for note in self._notes)]:
            self._say(sentence)

    @property
    def _remedy(self) -> str:
        return f"`ontogeny analyze` with the store {self.store} computes what is missing"

    def _tell(self, messages: Iterator[Message]) -> None:
        for message in messages:
            if message["kind"] == "findings":
                self._tell_results(message)
            elif message["kind"] == "failed":
                self._warn(f"the analysis failed: {message['reason']}")
            else:
                for said in [*message["failed"].values(), *message["exceptions"]]:
                    self._warn(said)

    def _tell_results(self, message: Message) -> None:
        last = message["last"]
        self._tell(iter([last]))
        self.findings, self._notes = message["findings"], last.get("notes", [])
        if "reason" in message and last["kind"] == "looked":
            self._warn(f"the results cannot be read: {message['reason']}")
            return
        # Why the audit masks a step is among the exceptions of the last look.
        self._tell_missing(self._saved - {*message["steps"], *last.get("masked", ())})

    def _tell_missing(self, steps: set[int]) -> None:
        """Name the saved checkpoints that are not in the store, and why as far as it is known."""
        removed = {step for step in steps if not (self._folder / f"checkpoint-{step}").exists()}
        select = " (`select` leaves some out)" if self._analysis.select else ""
        reasons = {
            "were removed before they were analysed, by a `save_total_limit` for instance": removed,
            f"are not in the store{select}: {self._remedy}": steps - removed,
        }
        for reason, of in reasons.items():
            if of:
                named = ", ".join(map(str, sorted(of)[:_SHOWN])) + ", ..." * (len(of) > _SHOWN)
                self._warn(f"of {len(self._saved)} saved checkpoints, {len(of)} ({named}) {reason}")

    def _warn(self, sentence: str) -> None:
        if sentence not in self._told:  # each failure once, not with every checkpoint
            self._told.add(sentence)
            _log.warning("ontogeny: %s", sentence)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Log an error of the analysis, which is not to end the training."""
        try:
            yield
        except TimeoutError:
            raise
        except Exception as error:
            self._warn(f"the analysis failed ({type(error).__name__}: {first_line(error)})")

    def _end(self) -> None:
        if self._beside is not None:
            self._beside.end()
            self._beside = None


def _analysis(given: str | Path | Mapping[str, Any] | Analysis) -> Analysis:
    if isinstance(given, Analysis):
        return given
    if isinstance(given, Mapping):
        return validated(Analysis, {"checkpoints": _NOT_GIVEN, **given}, "OntogenyCallback")
    return load_analysis(given)


def _of_folder(analysis: Analysis, folder: str) -> Analysis:
    """Return the analysis of a training's folder. Raises InputError if it is of another one."""
    place = str(Path(folder).resolve())
    given = analysis.checkpoints
    if given != _NOT_GIVEN and str(Path(given).resolve()) != place:
        raise InputError(
            f"OntogenyCallback: the analysis is of {given}, but the Trainer saves in {place}: give "
            "`checkpoints` and `output_dir` the same folder, or leave `checkpoints` out"
        )
    return paths_from(analysis.model_copy(update={"checkpoints": place}), Path.cwd())
