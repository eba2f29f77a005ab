"""The command with slow workers: `python -m tests.flows.slowed STEP SECONDS analyze …`.

From STEP on, each checkpoint waits so many seconds before it is computed, so that a test can act on
the command in the middle of its work, however busy the machine is.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows.analyze
from flows.cli import app
from flows.dispatch import Pool
from flows.workers import start_workers
from pipeline.analysis.job import Prepared
from pipeline.analysis.worker import Worker
from tests.flows.ending import wait_for_the_end


def slow_worker(step: int, seconds: float, hangs: int | None, hung: Path) -> type[Worker]:
    class SlowWorker(Worker):
        def compute(self, cell: Any, plan: Any) -> Any:
            if cell.checkpoint.step >= step:
                time.sleep(seconds)
            if cell.checkpoint.step == hangs and not hung.exists():
                hung.touch()
                time.sleep(3600)
            return super().compute(cell, plan)

    return SlowWorker


def slow_pool(
    step: int, seconds: float, hangs: int | None = None, hung: Path = Path("hung")
) -> Callable[[Prepared], Pool]:
    """Return a `make_pool` whose workers wait so many seconds from a step on.

    hangs: a step whose first computation never ends. hung: the file that is created when it starts.
    """

    def make_pool(prepared: Prepared, tell: object = None) -> Pool:
        slow = slow_worker(step, seconds, hangs, hung)
        job = prepared.job
        return Pool(lambda: start_workers(job, slow), job.analysis.workers.timeout)

    return make_pool


if __name__ == "__main__":
    flows.analyze.make_pool = slow_pool(int(sys.argv[1]), float(sys.argv[2]))
    wait_for_the_end()
    app(sys.argv[3:])
