"""Who runs the flow in this process, and wants more of it than its final state.

In a module of its own: Prefect sends a served flow to its process by value, with all that stands
beside it, and a context variable cannot be sent.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from pipeline.analysis.run import Summary
from pipeline.checkpoints.left_out import in_lines

Progress = Callable[[int, int, str], None]


@dataclass
class Caller:
    """What it is told while the flow runs, and the summary that it is given at the end."""

    progress: Progress
    summary: Summary | None = None


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


@contextmanager
def calling(progress: Progress) -> Iterator[Caller]:
    """The flows that run in the block are run for this caller."""
    caller = Caller(progress)
    token = _caller.set(caller)
    try:
        yield caller
    finally:
        _caller.reset(token)


def tell(done: int, total: int, what: str) -> None:
    """Tell the caller, if there is one, how far the flow is."""
    if caller := _caller.get():
        caller.progress(done, total, what)


def hand_over(summary: Summary, new: Sequence[str]) -> None:
    """Give the caller what the flow did.

    Without one the flow is served: then it is said where whoever serves it may read it, with what
    has newly set in.
    """
    if caller := _caller.get():
        caller.summary = summary
        return
    left_out = (f"left out, {line}" for line in in_lines(summary.left_out))
    for said in (f"{summary.store}: {summary.sentence()}", *left_out, *new):
        print(f"{datetime.now():%H:%M:%S} {said}", flush=True)
