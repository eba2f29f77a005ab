"""The terminal of `ontogeny watch`: what happens to its runs and to the server.

The result of a look is printed by its own process, see `flows.observer`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from flows.repeating import repeated
from flows.server import is_server_reachable, without_retries
from pipeline.printable import printable

_SECONDS = 2  # between two questions to the server
_SKIPPED = "Deployment concurrency limit reached."  # the server's reason
_REASON = "the look before is still in progress"


class WatchLog:
    """Asks the server about the runs of a deployment, and prints what changed.

    outages: how often the server was found to be away.
    """

    def __init__(self, deployment: str) -> None:
        self.outages = 0
        self._deployment, self._since = deployment, datetime.now(UTC)
        self._told: dict[UUID, StateType] = {}
        self._begun: set[UUID] = set()
        self._away = False
        self._print_to = sys.stdout

    def look(self) -> None:
        """Print what has changed since the last call."""
        away = not is_server_reachable()
        if away and not self._away:
            self.outages += 1
            self._say("the Prefect server does not answer: waiting for it")
        if self._away and not away:
            self._say("the Prefect server answers again")
        self._away = away
        if not away:
            for run in reversed(self._runs()):
                self._tell(run)

    def _runs(self) -> list[FlowRun]:
        try:
            with without_retries(), get_client(sync_client=True) as client:
                deployment = client.read_deployment_by_name(self._deployment)
                due = {"after_": self._since, "before_": datetime.now(UTC)}
                of_it = FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
                    expected_start_time=FlowRunFilterExpectedStartTime.model_validate(due),
                )
                order = FlowRunSort.EXPECTED_START_TIME_DESC
                return client.read_flow_runs(flow_run_filter=of_it, sort=order, limit=20)
        except (httpx.HTTPError, ObjectNotFound):
            return []  # asked again soon

    def _tell(self, run: FlowRun) -> None:
        state = run.state
        if state is None or self._told.get(run.id) == state.type:
            return
        skipped = state.message == _SKIPPED
        if skipped:
            _show_as_skipped(run)
        # By its time, not its state: a look may start and end between two questions. One that was
        # skipped has a time, too.
        elif run.start_time is not None and run.id not in self._begun:
            self._begun.add(run.id)
            self._say("looking for new checkpoints")
        self._told[run.id] = state.type
        texts = {
            StateType.CANCELLED: f"skipped: {_REASON}" if skipped else "the look was cancelled",
            StateType.CRASHED: f"the look ended early: {state.message}",
            StateType.FAILED: f"the look failed: {state.message}",
        }
        if text := texts.get(state.type):
            self._say(text)

    def _say(self, text: str) -> None:
        line = f"{datetime.now():%H:%M:%S} {printable(text)}"
        print(line, file=self._print_to, flush=True)


def _show_as_skipped(run: FlowRun) -> None:
    """Name the state of a run that the server did not start, which it shows as cancelled."""
    state = Cancelled(name="Skipped", message=_REASON)
    gone = suppress(httpx.HTTPError, ObjectNotFound)
    with gone, without_retries(), get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state, force=True)


@contextmanager
def told(deployment: str) -> Iterator[WatchLog]:
    """Print during the block what happens to the runs of a deployment, from a thread."""
    log = WatchLog(deployment)
    with repeated(log.look, every=_SECONDS, wait=5):
        yield log
