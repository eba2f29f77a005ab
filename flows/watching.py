"""A growing run, analysed on a schedule: new checkpoints are computed, the rest is kept."""

from datetime import UTC, datetime, timedelta

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Interval
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.analyze import analyze
from pipeline.config import Analysis
from pipeline.errors import InputError
from pipeline.store.objects import store_name

_SECONDS_TO_SCHEDULE = 10  # the server looks for new schedules every 5 s


def watch_run(analysis: Analysis, seconds: float) -> None:
    """Serve a scheduled deployment of the flow from this process until it is interrupted.

    A run that is still under way when the next is due lets it pass.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "a schedule needs a Prefect server that stands: start one with `ontogeny ui`, or name "
            "yours in PREFECT_API_URL"
        )
    name = store_name(analysis.store)
    # Of a schedule that begins now, the first look would be let pass: it is due too soon.
    first_look = datetime.now(UTC) + timedelta(seconds=_SECONDS_TO_SCHEDULE)
    analyze.serve(
        name=f"watch {name}",
        schedule=Interval(timedelta(seconds=seconds), anchor_date=first_look),
        parameters={"analysis": analysis.model_dump(mode="json", exclude_unset=True)},
        tags=["ontogeny", "watch", name],
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
