"""`ontogeny watch`: analyse a growing run on a schedule; only new checkpoints are computed."""

import asyncio
import hashlib
import io
import os
import re
import signal
import time
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    State,
    StateType,
)
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Interval
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from flows.allowed_code import code_of
from flows.analyze import analyze, make_flow, run_within
from flows.prefect_server.parent import end_with
from flows.server import is_server_reachable, require_persistent_server, without_retries
from flows.watch_log import WatchLog, told
from flows.watch_records import abandoned, recorded
from pipeline.config import Analysis
from pipeline.store.store_names import store_name

_SECONDS_TO_SCHEDULE = 10  # the server reads new schedules every 5 s
_SECONDS_TO_END = 15  # a run ends its workers first


class _Runner(Runner):
    """Ends at SIGTERM by the handler that was there before: Prefect's own leaves its runs behind.

    By that of Ctrl-C if there was none. It is called, and no signal is sent: SIGINT may be ignored,
    as in the background of a script.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        before = signal.getsignal(signal.SIGTERM)
        self._end = before if callable(before) else signal.default_int_handler

    def handle_sigterm(self, *args: Any, **_: Any) -> None:
        """Raise KeyboardInterrupt, as the command does after any signal that ends it."""
        self._end(*args)


def watch_run(analysis: Analysis, seconds: float) -> None:
    """Serve a scheduled deployment of the flow from this process until it is interrupted.

    A scheduled run is skipped while the one before is still in progress. While the server is away,
    this waits for it. At the end the deployment is deleted; those of watches that were killed are
    deleted when the next one starts.
    """
    server = require_persistent_server("a schedule needs")
    name = deployment_name(analysis.store)
    # First: in a container, the record of this process may have the name of one that is abandoned.
    delete_abandoned(server)
    with recorded(name, server):
        _delete(name)  # of a watch on another machine: its run may still take the only slot
        try:
            with told(f"{analyze.name}/{name}") as log:
                while _serve(analysis, name, seconds, log):
                    pass
        finally:
            _delete(name)


def delete_abandoned(server: str) -> None:
    """Delete the deployments that watches of this user have left on a server: they were killed.

    If the server does not answer, the next watch tries it again.
    """
    with suppress(httpx.HTTPError):
        for name in abandoned(server):
            _delete_with_runs(name)


def deployment_name(store: str) -> str:
    """Return the name of the deployment that watches for a store."""
    # Many stores have the same name in different folders; Prefect refuses some characters.
    name = re.sub(r"[^\w .-]", "-", store_name(store))
    return f"watch {name} {hashlib.sha256(store.encode()).hexdigest()[:6]}"


def _serve(analysis: Analysis, name: str, seconds: float, log: WatchLog) -> bool:
    """Serve the deployment until an interrupt; return whether to serve it again.

    If the server goes away for minutes, Prefect gives up: then this waits until it answers again.
    """
    outages = log.outages
    try:
        # Prefect prints tracebacks of requests that failed; runs print in processes of their own.
        with redirect_stdout(io.StringIO()):
            runner = _Runner(name=name, pause_on_shutdown=False)  # its deployment is deleted
            runner.add_flow(_flow_of(analysis), **_deployment(analysis, name, seconds))
            asyncio.run(runner.start())
    except KeyboardInterrupt:
        return False
    except Exception:
        if log.outages == outages and is_server_reachable():
            raise
        while not is_server_reachable():
            time.sleep(1)
    return True


def _flow_of(analysis: Analysis) -> Flow[..., Any]:
    """Return the flow to serve: whatever its parameters say, it runs only this analysis's code."""
    allowed, watch = code_of(analysis), os.getpid()

    def look(analysis: Analysis) -> State:
        end_with(watch, _SECONDS_TO_END)
        return run_within(analysis, allowed)

    return make_flow(look)


def _deployment(analysis: Analysis, name: str, seconds: float) -> dict[str, Any]:
    # The scheduler skips a run that is due before it has read the schedule.
    first_run = datetime.now(UTC) + timedelta(seconds=_SECONDS_TO_SCHEDULE)
    return {
        "name": name,
        "schedule": Interval(timedelta(seconds=seconds), anchor_date=first_run),
        "parameters": {"analysis": analysis.model_dump(mode="json", exclude_unset=True)},
        "tags": ["ontogeny", "watch", store_name(analysis.store)],
        "concurrency_limit": ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        # By file path, Prefect would load a copy of this module outside its package.
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }


def _delete(name: str) -> None:
    """Delete the deployment with its waiting runs, if it is there and the server answers."""
    with suppress(httpx.HTTPError):
        _delete_with_runs(name)


def _delete_with_runs(name: str) -> None:
    gone = suppress(ObjectNotFound)
    with gone, without_retries(), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"{analyze.name}/{name}").id
        of_it = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])),
        )
        for run in client.read_flow_runs(flow_run_filter=of_it):
            ended = Crashed(message="ended with its `ontogeny watch`")
            client.set_flow_run_state(run.id, ended, force=True)
        client.delete_deployment(deployment)
