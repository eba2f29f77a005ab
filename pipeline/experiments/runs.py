"""Runs of experiments: each is trained and analysed once, and kept by what it was made of."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from pipeline.analysis.run import analyze
from pipeline.config import Analysis
from pipeline.engine.forward import ENGINE_VERSION
from pipeline.errors import InputError, first_line
from pipeline.measures import registry
from pipeline.outside import content_of, json_object
from pipeline.progress import Progress
from pipeline.query import open_run
from pipeline.training import TRAINING_VERSION, Text, Training, train
from pipeline.writing import whole_file

CHECKPOINTS, STORES = "checkpoints", "stores"
_DIGITS = 12  # of a digest in a name: one of 10,000 runs has the name of another in 1e-7 of cases


@dataclass(frozen=True)
class Run:
    """A training run, and what is measured at its checkpoints.

    training: its output is not used. measures, inputs and select: as in an analysis.
    """

    training: Training
    measures: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    select: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """The run in words."""
        return f"{self.training.name}, seed {self.training.seed}"


@dataclass(frozen=True)
class Result:
    """A run that is trained and analysed. seconds: of the processor that this took.

    What an interrupted attempt took is not counted.
    """

    run: Run
    checkpoints: Path
    store: str
    seconds: float

    @cached_property
    def data(self) -> xr.DataTree:
        """The rows of the store."""
        return open_run(self.store)

    def group(self, name: str) -> xr.Dataset:
        """Return the rows of a measure."""
        return self.data[name].to_dataset()

    @property
    def seed(self) -> int:
        """The seed of the weights at step 0."""
        return self.run.training.seed

    def checkpoint(self, step: int | None = None) -> str:
        """Return the folder of a checkpoint, by default of the last one."""
        last = self.run.training.steps if step is None else step
        return str(self.checkpoints / f"step-{last}")


@runtime_checkable
class Runs(Protocol):
    """Trains and analyses runs, several at a time.

    quick: fewer or shorter ones are asked for. text: the file to train models of text on; None:
    Python's standard library.
    """

    @property
    def quick(self) -> bool: ...  # noqa: D102

    @property
    def text(self) -> str | None: ...  # noqa: D102

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return the results of the runs in their order; raises InputError if one has failed."""
        ...


@dataclass(frozen=True)
class SerialRuns:
    """Runs that are carried out in this process, one after the other.

    folder: where all are kept. progress(done, total, what): called after each.
    """

    folder: Path
    quick: bool = False
    text: str | None = None
    progress: Progress = lambda *_: None

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return the results of the runs; raises InputError, once all are done, if one failed."""
        return collected(runs, self._attempts, self.progress)

    def _attempts(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Result | Exception]]:
        for run in runs:
            try:
                yield run, carry_out(run, self.folder)
            except (InputError, OSError) as error:
                yield run, error


Attempts = Callable[[Sequence[Run]], Iterable[tuple[Run, Result | Exception]]]


def collected(runs: Sequence[Run], attempts: Attempts, progress: Progress) -> list[Result]:
    """Return the results of attempts at the distinct runs, one for each of `runs`, in order.

    attempts: yields each run that it is given with its result, in any order. Raises InputError
    that names each run that has failed, once all others are done.
    """
    distinct = {digest(content(run)): run for run in runs}
    found: dict[str, Result] = {}
    failed: list[str] = []
    for done, (run, result) in enumerate(attempts(list(distinct.values())), 1):
        if isinstance(result, Result):
            found[digest(content(run))] = result
        else:
            failed.append(f"{run.title}: {first_line(result)}")
        progress(done, len(distinct), run.title)
    if failed:
        raise InputError(f"{len(failed)} of {len(distinct)} runs failed: {'; '.join(failed)}")
    return [found[digest(content(run))] for run in runs]


def carry_out(run: Run, folder: Path) -> Result:
    """Train a run and analyse its checkpoints below a folder, unless that is done already.

    What an interrupted run has left is used, and so are rows of measures whose version is still the
    same. Raises InputError if training diverges, or if a checkpoint cannot be analysed.
    """
    folder = Path(os.path.realpath(folder))
    name, values = run.training.name.replace("/", "-"), content(run, folder)
    checkpoints = folder / CHECKPOINTS / f"{name}-{digest(values['training'])}"
    store = folder / STORES / f"{name}-{digest(values)}.zarr"
    done = _Done(store.with_suffix(".json"), _versions(run))
    if done.seconds is None or not store.is_dir():
        # Of the processor, since others may use it at the same time.
        start = time.process_time()
        train(run.training.model_copy(update={"output": str(checkpoints)}))
        _analyze(run, checkpoints, store)
        done.keep(time.process_time() - start)
    return Result(run, checkpoints, str(store), done.seconds or 0.0)


@dataclass
class _Done:
    """The file that is written last, without which a run is not done.

    versions: of what the run's rows depend on; with others the file does not count, nor where one
    is None, which is known from rows only.
    """

    path: Path
    versions: Mapping[str, int | None]
    seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.path.is_file():
            said = json_object(content_of(self.path, InputError), str(self.path), InputError)
            if said.get("versions") == self.versions and None not in self.versions.values():
                self.seconds = float(said["seconds"])

    def keep(self, seconds: float) -> None:
        """Write the file."""
        self.seconds = round(seconds, 1)
        with whole_file(self.path) as draft:
            draft.write_text(json.dumps({"seconds": self.seconds, "versions": self.versions}))


def _versions(run: Run) -> dict[str, int | None]:
    """Return the versions of the engine and of the run's measures; None for a user's own."""
    known = {name: measure.version for name, measure in registry().items()}
    names = {name.partition(".")[0] for name in run.measures}
    return {"engine": ENGINE_VERSION} | {name: known.get(name) for name in sorted(names)}


def _analyze(run: Run, checkpoints: Path, store: Path) -> None:
    threads = {"count": 1, "threads": run.training.threads}
    summary = analyze(
        Analysis.model_validate(
            {
                "checkpoints": str(checkpoints), "store": str(store), "select": run.select,
                "measures": run.measures, "inputs": run.inputs, "workers": threads,
            }
        )
    )  # fmt: skip
    if not summary.worked:
        raise InputError(f"{store}: {summary.sentence()}")


def content(run: Run, folder: Path | None = None) -> dict[str, Any]:
    """Return all that a run's numbers follow from, as JSON, but for versions of measures.

    folder: places below it are given relative to it, so that it may be moved.
    """
    values = {
        "training": _training(run), "measures": dict(run.measures), "inputs": dict(run.inputs),
        "select": run.select,
    }  # fmt: skip
    return values if folder is None else _moved(values, f"{folder}{os.sep}")


def _training(run: Run) -> dict[str, Any]:
    """Return the training, with the content of its text in place of the file that has it."""
    training = run.training
    values = training.model_dump(mode="json", exclude={"output", "name"})
    if isinstance(training.task, Text):
        values["task"]["path"] = _text_version(training.task.path)
    return {**values, "version": TRAINING_VERSION}


@cache  # a text is named in many runs
def _text_version(path: str | None) -> str:
    """Return what tells a text from another: its digest, or Python's version for its library."""
    if path is None:
        return f"Python {platform.python_version()}"
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _moved(value: Any, start: str) -> Any:
    """Return a value of JSON in which no text begins with this start any more."""
    if isinstance(value, Mapping):
        return {key: _moved(of, start) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(of, start) for of in value]
    return value.removeprefix(start) if isinstance(value, str) else value


def digest(values: Mapping[str, Any]) -> str:
    """Return some digits that follow from values of JSON."""
    text = json.dumps(values, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
