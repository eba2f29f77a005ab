"""`ontogeny watch`: analyse a growing run on a schedule; only new checkpoints are computed."""

from datetime import UTC, datetime, timedelta

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Interval
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.analyze import analyze
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store.objects import store_name

_SECONDS_TO_SCHEDULE = 10  # the server reads new schedules every 5 s


def watch_run(analysis: Analysis, seconds: float) -> None:
    """Serve a scheduled deployment of the flow from this process until it is interrupted.

    A scheduled run is skipped while the one before is still in progress.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "a schedule needs a persistent Prefect server: start one with `ontogeny ui`, or name "
            "yours in PREFECT_API_URL"
        )
    name = store_name(analysis.store)
    # The scheduler skips a run that is due before it has read the schedule.
    first_run = datetime.now(UTC) + timedelta(seconds=_SECONDS_TO_SCHEDULE)
    analyze.serve(
        name=f"watch {name}",
        schedule=Interval(timedelta(seconds=seconds), anchor_date=first_run),
        parameters={"analysis": analysis.model_dump(mode="json", exclude_unset=True)},
        tags=["ontogeny", "watch", name],
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        print_starting_message=False,
        # By file path, Prefect would load a copy of this module outside its package.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
