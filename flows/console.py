"""Progress on stderr: a bar in a terminal, otherwise a line from time to time."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import rich.progress
from rich.console import Console

from pipeline.printable import printable
from pipeline.progress import Progress, TrainingProgress

ShowProgress = Callable[[str], AbstractContextManager[Progress]]

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(what: str) -> Iterator[Progress]:
    """Show on stderr how far `what` has come; yield the function that is told."""
    console = Console(stderr=True)  # stdout is for the result, which may be JSON
    with _bar(what, console) if console.is_terminal else _lines(what) as progress:
        yield progress


def loss_progress(progress: Progress) -> TrainingProgress:
    """Return a callback for training that shows the loss as the detail of `progress`."""
    return lambda done, total, loss: progress(done, total, f"loss {loss:.3g} nats")


@contextmanager
def _bar(what: str, console: Console) -> Iterator[Progress]:
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[detail]}", markup=False),
    )
    with rich.progress.Progress(*columns, console=console) as bars:
        # A bar without a total pulses: the workers are being started.
        bar = bars.add_task(printable(what), total=None, detail="starting")
        yield lambda done, total, detail: bars.update(
            bar, completed=done, total=total, detail=printable(detail)
        )


@contextmanager
def _lines(what: str) -> Iterator[Progress]:
    last = time.monotonic()

    def progress(done: int, total: int, detail: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(printable(f"{what}: {done}/{total} ({detail})"), file=sys.stderr, flush=True)

    yield progress
