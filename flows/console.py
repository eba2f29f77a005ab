"""Show the progress of a command on stderr: lines, and in a terminal also a bar.

A line is written for each thing that is begun, and another one whenever nothing was written for ten
seconds, also while nothing is finished.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import rich.progress
from rich.console import Console

from flows.repeating import repeated
from pipeline.printable import printable
from pipeline.progress import TrainingProgress

_SECONDS_BETWEEN_LINES = 10.0


class Shown(Protocol):
    """The progress of some work, as the work reports it, from any of its threads."""

    def __call__(self, done: int, total: int, detail: str) -> None:
        """Show that so many of the total are done; detail: the last of them."""
        ...

    def tell(self, text: str) -> None:
        """Show what is begun now, as in "starting Ray"."""
        ...


ShowProgress = Callable[..., AbstractContextManager[Shown]]


@contextmanager
def show_progress(what: str, unit: str = "") -> Iterator[Shown]:
    """Show on stderr how far `what` has come; yield what it is reported to.

    unit: of what is counted.
    """
    console = Console(stderr=True)  # stdout is for the result, which may be JSON
    with _bar(what, console) if console.is_terminal else _lines(what, unit) as shown:
        yield shown


def loss_progress(progress: Shown) -> TrainingProgress:
    """Return a callback for training that shows the loss as the detail of `progress`."""
    return lambda done, total, loss: progress(done, total, f"loss {loss:.3g} nats")


class _Bar:
    def __init__(self, what: str, bars: rich.progress.Progress) -> None:
        self._what, self._bars = what, bars
        # A bar without a total pulses: nothing is counted yet.
        self._task = bars.add_task(printable(what), total=None, detail="starting")

    def __call__(self, done: int, total: int, detail: str) -> None:
        self._bars.update(self._task, completed=done, total=total, detail=printable(detail))

    def tell(self, text: str) -> None:
        self._bars.update(self._task, detail=printable(text))
        line = printable(f"{self._what}: {text}")
        self._bars.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def _bar(what: str, console: Console) -> Iterator[Shown]:
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[detail]}", markup=False),
    )
    with rich.progress.Progress(*columns, console=console) as bars:
        yield _Bar(what, bars)


class Lines:
    """Progress as lines. clock: seconds that only grow. write: called with each line."""

    def __init__(
        self, what: str, unit: str, write: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._what, self._unit, self._write, self._clock = what, unit, write, clock
        self._lock = threading.Lock()
        self._text = "starting"
        self._begun = self._last = clock()
        self._counted_since = (0, self._begun)  # how many were done at first, and when
        self._progress: tuple[int, int, str] | None = None

    def __call__(self, done: int, total: int, detail: str) -> None:
        """Count; write a line if the last one was long ago, or if this was the last one."""
        with self._lock:
            if self._progress is None or done < self._progress[0] or total != self._progress[1]:
                # More than one at first were done before: an interrupted training is continued.
                first = self._progress is None and done <= 1
                self._counted_since = (0, self._begun) if first else (done, self._clock())
            self._progress = (done, total, detail)
            if done == total or self._is_due():
                self._say(self._counts())

    def tell(self, text: str) -> None:
        """Write what is begun now; see `Shown`."""
        with self._lock:
            self._text, self._begun, self._progress = text, self._clock(), None
            self._say(f"{text}…")

    def remind(self) -> None:
        """Write what is being done if the last line was long ago."""
        with self._lock:
            if self._is_due():
                seconds = self._clock() - self._begun
                self._say(f"{self._text}… ({seconds:.0f} s)" if self._idle() else self._counts())

    def _idle(self) -> bool:
        """Return whether nothing is counted now."""
        return self._progress is None or self._progress[0] == self._progress[1]

    def _is_due(self) -> bool:
        return self._clock() - self._last >= _SECONDS_BETWEEN_LINES

    def _say(self, text: str) -> None:
        self._last = self._clock()
        self._write(printable(f"{self._what}: {text}"))

    def _counts(self) -> str:
        assert self._progress is not None
        done, total, detail = self._progress
        unit = f" {self._unit}" if self._unit else ""
        return f"{done} of {total}{unit} ({detail}){self._time_left(done, total)}"

    def _time_left(self, done: int, total: int) -> str:
        before, since = self._counted_since
        if not before < done < total:
            return ""
        seconds = (self._clock() - since) * (total - done) / (done - before)
        return f", about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    """Return a duration in whole seconds, minutes or hours, whichever is shorter to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"


@contextmanager
def _lines(what: str, unit: str) -> Iterator[Shown]:
    def write(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    lines = Lines(what, unit, write, time.monotonic)
    with repeated(lines.remind, every=1.0):
        yield lines
