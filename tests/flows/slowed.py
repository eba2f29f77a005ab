"""The command, with workers that hold: `python -m tests.flows.slowed STEP SECONDS analyze …`.

From STEP on each checkpoint waits so many seconds before it is computed, so that what is done to
the command in the meantime is done in the middle of its work, however busy the machine is.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows.analyze
from flows.cli import app
from flows.dispatch import Pool
from flows.workers import hire
from pipeline.analysis.plan import Prepared
from pipeline.analysis.worker import Worker


def holding(step: int, seconds: float, hangs: int | None, hung: Path) -> type[Worker]:
    class Holding(Worker):
        def compute(self, cell: Any, plan: Any) -> Any:
            if cell.checkpoint.step >= step:
                time.sleep(seconds)
            if cell.checkpoint.step == hangs and not hung.exists():
                hung.touch()
                time.sleep(3600)
            return super().compute(cell, plan)

    return Holding


def holding_pool(
    step: int, seconds: float, hangs: int | None = None, hung: Path = Path("hung")
) -> Callable[[Prepared], Pool]:
    """hangs: a step whose first computation never ends; `hung` says as a file that it began."""

    def make_pool(prepared: Prepared) -> Pool:
        held = holding(step, seconds, hangs, hung)
        return Pool(lambda: hire(prepared.job, held), prepared.job.analysis.workers.timeout)

    return make_pool


if __name__ == "__main__":
    flows.analyze.make_pool = holding_pool(int(sys.argv[1]), float(sys.argv[2]))
    app(sys.argv[3:])
