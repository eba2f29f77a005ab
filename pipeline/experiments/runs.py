"""Runs of experiments: each is trained and analysed once, and kept by what it was made of."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from pipeline.analysis.run import analyze
from pipeline.config import Analysis
from pipeline.errors import InputError, first_line
from pipeline.outside import content_of, json_object
from pipeline.progress import Progress
from pipeline.query import open_run
from pipeline.training import Training, train
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
    """A run that is trained and analysed. seconds: that this took, without what was cached."""

    run: Run
    checkpoints: Path
    store: str
    seconds: float

    @cached_property
    def data(self) -> xr.DataTree:
        """The rows of the store."""
        return open_run(self.store)

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

    quick: bool
    text: str | None

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

    What an interrupted run has left is used. Raises InputError if training diverges, or if a
    checkpoint cannot be analysed.
    """
    folder = Path(os.path.realpath(folder))
    name = run.training.name.replace("/", "-")
    trained = f"{name}-{digest(_training(run, folder))}"
    stored = f"{name}-{digest(content(run, folder))}"
    checkpoints, store = folder / CHECKPOINTS / trained, folder / STORES / f"{stored}.zarr"
    done = folder / STORES / f"{stored}.json"
    if done.is_file() and store.is_dir():
        seconds = float(json_object(content_of(done, InputError), str(done), InputError)["seconds"])
        return Result(run, checkpoints, str(store), seconds)
    start = time.monotonic()
    train(run.training.model_copy(update={"output": str(checkpoints)}))
    _analyze(run, checkpoints, store)
    seconds = time.monotonic() - start
    with whole_file(done) as draft:  # written last: without it, the run is not done
        draft.write_text(json.dumps({"seconds": round(seconds, 1)}))
    return Result(run, checkpoints, str(store), seconds)


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
    """Return all that a run's numbers follow from, as JSON.

    folder: places below it are given relative to it, so that it may be moved.
    """
    return {
        "training": _training(run, folder), "measures": dict(run.measures),
        "inputs": dict(run.inputs), "select": run.select,
    }  # fmt: skip


def _training(run: Run, folder: Path | None) -> dict[str, Any]:
    values = run.training.model_dump(mode="json", exclude={"output", "name"})
    for part in values["keep"]:
        if part["checkpoint"] is not None and folder is not None:
            part["checkpoint"] = os.path.relpath(os.path.realpath(part["checkpoint"]), folder)
    return values


def digest(values: Mapping[str, Any]) -> str:
    """Return some digits that follow from values of JSON."""
    text = json.dumps(values, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
