"""What a person sees while work is done: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Step = Callable[[int, int, str], None]

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_of(what: str) -> Iterator[Step]:
    """`step(done, total, detail)` shows how far `what` has come, on stderr."""
    console = Console(stderr=True)
    with _bar(what, console) if console.is_terminal else _lines(what) as step:
        yield step


@contextmanager
def _bar(what: str, console: Console) -> Iterator[Step]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console) as progress:
        # Without a total the bar pulses: something is being started.
        bar = progress.add_task(what, total=None, detail="starting")
        yield lambda done, total, detail: progress.update(
            bar, completed=done, total=total, detail=detail
        )


@contextmanager
def _lines(what: str) -> Iterator[Step]:
    last = time.monotonic()

    def step(done: int, total: int, detail: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done}/{total} ({detail})", file=sys.stderr, flush=True)

    yield step
