"""`ontogeny watch`: analyse a growing run on a schedule; only new checkpoints are computed."""

import hashlib
import io
import os
import time
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Interval
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.allowed_code import code_of
from flows.analyze import analyze, make_flow, run_within
from flows.prefect_server.parent import end_with
from flows.server import is_server_reachable, require_server, without_retries
from flows.watch_log import WatchLog, told
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store.objects import store_name

_SECONDS_TO_SCHEDULE = 10  # the server reads new schedules every 5 s
_SECONDS_TO_END = 15  # a run ends its workers first


def watch_run(analysis: Analysis, seconds: float) -> None:
    """Serve a scheduled deployment of the flow from this process until it is interrupted.

    A scheduled run is skipped while the one before is still in progress. While the server is away,
    this waits for it. At the end the deployment is deleted.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "a schedule needs a persistent Prefect server: start one with `ontogeny ui`, or name "
            "yours in PREFECT_API_URL"
        )
    require_server()
    name = deployment_name(analysis.store)
    _delete(name)  # left by a watch that was killed: its run may still take the only slot
    try:
        with told(f"{analyze.name}/{name}") as log:
            while _serve(analysis, name, seconds, log):
                pass
    finally:
        _delete(name)


def deployment_name(store: str) -> str:
    """Return the name of the deployment that watches for a store."""
    # Many stores have the same name in different folders.
    return f"watch {store_name(store)} {hashlib.sha256(store.encode()).hexdigest()[:6]}"


def _serve(analysis: Analysis, name: str, seconds: float, log: WatchLog) -> bool:
    """Serve the deployment until an interrupt; return whether to serve it again.

    If the server goes away for minutes, Prefect gives up: then this waits until it answers again.
    """
    outages = log.outages
    try:
        # Prefect prints tracebacks of requests that failed; runs print in processes of their own.
        with redirect_stdout(io.StringIO()):
            _flow_of(analysis).serve(**_deployment(analysis, name, seconds))
    except Exception:
        if log.outages == outages:
            raise
        while not is_server_reachable():
            time.sleep(1)
        return True
    return False


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
        "global_limit": ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        "print_starting_message": False,
        "pause_on_shutdown": False,  # it is deleted
        # By file path, Prefect would load a copy of this module outside its package.
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }


def _delete(name: str) -> None:
    """Delete the deployment, if it is there and the server answers."""
    with suppress(httpx.HTTPError, ObjectNotFound), without_retries():
        with get_client(sync_client=True) as client:
            client.delete_deployment(client.read_deployment_by_name(f"{analyze.name}/{name}").id)
