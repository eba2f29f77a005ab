"""The flow `experiment`: a Prefect task for each run, each of which waits for a Ray worker."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, cleanup
from flows.cluster import connect_to_ray
from flows.console import ShowProgress
from flows.dispatch import Pool
from flows.fanout import drop_unsent_events, wait_for_server, wait_for_task_records, worth_retrying
from flows.server import require_server
from flows.worker_logs import add_prefect_handlers
from flows.workers import start_actors
from pipeline.config import Workers
from pipeline.errors import InputError
from pipeline.experiments.experiment import Experiment, Outcome, run_experiment
from pipeline.experiments.runs import Result, Run, Runs, SerialRuns, carry_out, collected
from pipeline.experiments.table import finding_row
from pipeline.progress import Progress

_logger = logging.getLogger(__name__)


class RunWorker:
    """A worker that trains and analyses runs. folder: where they are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def carry_out(self, run: Run) -> Result:
        """Train and analyse a run, unless that is done; see `pipeline.experiments.runs`."""
        return carry_out(run, self._folder)


@task(
    name="run",
    task_run_name="{title}",
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,  # what is done already is in the folder of the runs
)
def carry_out_run(title: str, run: Run, pool: Pool) -> Result:
    """Train and analyse a run on a worker."""
    return pool.call("carry_out", run)


@dataclass
class RayRuns:
    """Runs that Ray workers carry out, with a Prefect task for each.

    See `pipeline.experiments.runs.Runs`. tasks: number of task runs so far.
    """

    quick: bool
    text: str | None
    pool: Pool
    threads: ThreadPoolTaskRunner
    progress: Progress
    tasks: int = 0

    def results(self, runs: Sequence[Run]) -> list[Result]:
        """Return the results of the runs; raises InputError, once all are done, if one failed."""
        return collected(runs, self._attempts, self.progress)

    def _attempts(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Result | Exception]]:
        add_prefect_handlers()
        futures: dict[PrefectFuture[Result], Run] = {
            self.threads.submit(
                carry_out_run, {"title": run.title, "run": run, "pool": self.pool}
            ): run
            for run in runs
        }
        self.tasks += len(futures)
        for future in as_completed(list(futures)):
            yield futures[future], future.result(raise_on_failure=False)


@dataclass(frozen=True)
class Settings:
    """The way in which experiments are carried out.

    folder: of all runs. quick, text: see `pipeline.experiments.runs.Runs`. workers: runs that are
    carried out at a time.
    """

    folder: Path
    quick: bool
    text: str | None
    workers: int


def run_experiments(
    experiments: Sequence[Experiment], settings: Settings, show_progress: ShowProgress
) -> Iterator[Outcome | Exception]:
    """Carry out experiments one after the other, each as a flow run; yield their outcomes.

    The error of an experiment that failed takes the place of its outcome. show_progress: see
    `flows.console`.
    """
    require_server()
    workers = Workers(count=settings.workers)
    with (
        cleanup.covered(),
        drop_unsent_events(),
        ThreadPoolTaskRunner(settings.workers) as threads,
        Pool(lambda: start_actors(workers, RunWorker, settings.folder, 1), in_flight=1) as pool,
    ):
        # In this thread: Linux ends the processes that a thread has started when the thread ends.
        connect_to_ray(workers)
        for experiment in experiments:
            with show_progress(experiment.name) as progress:
                runs = RayRuns(settings.quick, settings.text, pool, threads, progress)
                yield _run_flow(experiment, runs)


def run_serially(
    experiments: Sequence[Experiment], settings: Settings, show_progress: ShowProgress
) -> Iterator[Outcome | Exception]:
    """Carry out experiments in this process, without Ray and Prefect; see `run_experiments`."""
    for experiment in experiments:
        with show_progress(experiment.name) as progress:
            runs = SerialRuns(settings.folder, settings.quick, settings.text, progress)
            yield _outcome(experiment, runs)


def _run_flow(experiment: Experiment, runs: RayRuns) -> Outcome | Exception:
    found: list[Outcome | Exception] = []

    # The runs are passed as a closure, since a flow's parameters are stored as JSON.
    def carried_out(name: str, quick: bool) -> State:
        found.append(_outcome(experiment, runs))
        return _ended(found[0], runs.tasks)

    made = flow(name="experiment", flow_run_name=_flow_run_name(experiment, runs.quick),
                persist_result=False)(carried_out)  # fmt: skip
    state: State[Any] = made(experiment.name, runs.quick, return_state=True)
    if not found:
        state.result()  # raises what has ended the flow
        raise RuntimeError(f"the flow ended as {state.name} without an outcome: {state.message}")
    return found[0]


def _flow_run_name(experiment: Experiment, quick: bool) -> str:
    return f"{experiment.name}{' (quick)' if quick else ''}"


def _outcome(experiment: Experiment, runs: Runs) -> Outcome | Exception:
    try:
        return run_experiment(experiment, runs)
    except (InputError, OSError) as error:
        return error
    except Exception as error:  # of one experiment: the others are carried out
        _logger.exception("experiment %s", experiment.name)
        return error


def _ended(outcome: Outcome | Exception, tasks: int) -> State:
    """Show what was found in the UI; return the final state."""
    if isinstance(outcome, Exception):
        state = Failed(message=str(outcome))
    else:
        rows = [finding_row(one) for one in outcome.findings]
        key = f"claims-{outcome.experiment.name}"
        artifacts.show_table(key, rows, outcome.experiment.title)
        state = Completed(message="; ".join(f"{row['claim']} {row['verdict']}" for row in rows))
    if wait_for_server():
        wait_for_task_records(tasks)
    return state
